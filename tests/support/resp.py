"""Where the requests and replies of RESP2 and RESP3 begin and end in a stream; what replies mean is left alone."""

from __future__ import annotations

#: A request: its name in capitals, then its arguments as sent.
Command = list[bytes]

PUSH = ord(">")  #: begins what a server sends without being asked
_ARRAY = ord("*")
_ATTRIBUTE = ord("|")
_AGGREGATES = b"*~>"  # n elements follow
_PAIRS = b"%|"  # 2n elements follow; after an attribute also the reply it belongs to
_BULKS = b"$=!"  # n bytes and CRLF follow


def read_command(data: bytes, start: int) -> tuple[Command, int] | None:
    """Return the request at *start* and where it ends, or None when it is not complete."""
    end = data.find(b"\r\n", start)
    if end < 0:
        return None
    position = end + 2
    if data[start] != _ARRAY:  # an inline command
        words = data[start:end].split()
        if words:
            words[0] = words[0].upper()
        return words, position
    command: Command = []
    for _ in range(int(data[start + 1 : end])):
        end = data.find(b"\r\n", position)
        if end < 0:
            return None
        begin = end + 2
        end = begin + int(data[position + 1 : end])
        position = end + 2
        if position > len(data):
            return None
        command.append(data[begin:end])
    if command:
        command[0] = command[0].upper()
    return command, position


class ReplyScanner:
    """Finds where a reply ends, RESP2 or RESP3, in data that come in pieces; remembers how far it got."""

    def __init__(self) -> None:
        self._position = 0  # from the begin of the reply
        self._missing = 1  # elements

    def end_of_reply(self, data: bytes, start: int) -> int:
        """Return where the reply at *start* ends, or -1 when it is not complete.

        The next call after -1 must be about the same reply, with more data.
        """
        position = start + self._position
        missing = self._missing
        while missing:
            end = data.find(b"\r\n", position)
            if end < 0:
                break
            kind = data[position]
            after = end + 2
            if kind in _BULKS:
                length = int(data[position + 1 : end])
                if length >= 0:  # -1 is RESP2's null
                    after += length + 2
                if after > len(data):
                    break
            elif kind in _AGGREGATES:
                missing += max(0, int(data[position + 1 : end]))
            elif kind in _PAIRS:
                missing += 2 * int(data[position + 1 : end]) + (kind == _ATTRIBUTE)
            missing -= 1
            position = after
        if missing:
            self._position = position - start
            self._missing = missing
            return -1
        self._position = 0
        self._missing = 1
        return position
