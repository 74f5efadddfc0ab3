#!/bin/sh
# Speaks the protocol itself: JSON Lines on standard input and output, one event at a time.
desk=/run/autoweave-storage

# The first string under a key. Names that plugins compare are plain; what devices write may hold escapes.
field() { printf '%s\n' "$line" | sed -n "s/.*\"$1\":\"\([^\"\\\\]*\)\".*/\1/p"; }

done_with() { printf '{"type":"done","id":"%s","ok":true}\n' "$id"; }
failed() { printf '{"type":"done","id":"%s","ok":false,"error":"%s"}\n' "$id" "$1"; }

while IFS= read -r line; do
    case $line in
    '{"type":"hello"'*) echo '{"type":"ready","protocol":1}' ;;
    '{"type":"event"'*)
        id=$(field event_id)
        # Bus and port name a file safely; a serial number is the device's to choose.
        bus=$(printf '%s\n' "$line" | sed -n 's/.*"bus_number":\([0-9]*\).*/\1/p')
        request=$desk/$bus-$(field port_path)
        case $(field hook) in
        onUSBAttach) printf '%s:%s\n' "$(field vendor_id)" "$(field product_id)" >"$request" ;;
        onUSBDetach) rm -f "$request" ;;
        esac && done_with || failed "cannot write to $desk"
        ;;
    '{"type":"shutdown"'*) exit 0 ;;
    esac
done
