# A device that the manifest asks for was plugged in. An exception here means: again, later.
def attached(event, context):
    device = event["device"]
    context["log"]("info", f"{device['product'] or device['device_id']} is here")


def detached(event, context):
    device = event["device"]
    context["log"]("info", f"{device['product'] or device['device_id']} is gone")
