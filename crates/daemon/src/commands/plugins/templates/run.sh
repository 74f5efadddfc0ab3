#!/bin/sh
# Speaks protocol 1 itself: one JSON object a line, on standard input and output; standard error is the log.

# The first string under a key.
field() { printf '%s\n' "$line" | sed -n "s/.*\"$1\":\"\([^\"\\\\]*\)\".*/\1/p"; }

while IFS= read -r line; do
    case $line in
    '{"type":"hello"'*) echo '{"type":"ready","protocol":1}' ;;
    '{"type":"event"'*)
        echo "$(field hook): $(field vendor_id):$(field product_id)" >&2
        # {"type":"done",…,"ok":false,"error":"why"} means: again, later.
        printf '{"type":"done","id":"%s","ok":true}\n' "$(field event_id)"
        ;;
    '{"type":"shutdown"'*) exit 0 ;;
    esac
done
