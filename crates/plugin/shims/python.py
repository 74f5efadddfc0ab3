# Runs a plugin's entry under python3: imports it and calls the functions that its manifest names in `hooks`.
# Standard output is the protocol's alone; what the plugin prints goes to standard error, which is the log.
import asyncio
import importlib.util
import inspect
import json
import os
import sys
import traceback

config = json.loads(sys.argv[1])
lines = os.fdopen(os.dup(0), "rb")
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def send(message):
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


def log(level, message):
    send({"type": "log", "level": level, "message": str(message)[:4096]})


def taken(function):
    """How many arguments the function takes, or None for all: as in JavaScript, it need not take those it does not want."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def call(hook, *arguments):
    function, count = functions.get(hook, (None, 0))
    result = function(*arguments[:count]) if function else None
    if inspect.isawaitable(result):
        asyncio.run(result)


def answer(message):
    try:
        call(message["hook"], message["event"], {"id": message["id"], "delivery": message["delivery"], "log": log})
        return {"type": "done", "id": message["id"], "ok": True}
    except Exception as error:
        text = "".join(traceback.format_exception(error, limit=-3))[-4096:]
        retry = getattr(error, "retry", True) is not False
        return {"type": "done", "id": message["id"], "ok": False, "error": text, "retry": retry}


sys.argv = [config["entry"]]
sys.path.insert(0, os.path.dirname(config["entry"]))
spec = importlib.util.spec_from_file_location("plugin", config["entry"])
plugin = importlib.util.module_from_spec(spec)
sys.modules["plugin"] = plugin
spec.loader.exec_module(plugin)
functions = {}
for hook, name in config["hooks"].items():
    if name:
        function = getattr(plugin, name, None)
        if not callable(function):
            sys.exit(f"{config['entry']} has no function {name}, which hooks.{hook} names")
        functions[hook] = function, taken(function)

for line in lines:
    message = json.loads(line)
    if message["type"] == "hello":
        call("onLoad", {"plugin": message["plugin"], "log": log})
        send({"type": "ready", "protocol": 1})
    elif message["type"] == "event":
        send(answer(message))
    elif message["type"] == "shutdown":
        break
call("onUnload")
