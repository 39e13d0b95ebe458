"""How a frame is laid out: the octets around what it holds."""

from __future__ import annotations

from struct import Struct

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8  # types of frames
FRAME_END = 0xCE
FRAME_OVERHEAD = 8  # type, channel, length and the end octet
BASIC = 60  # the class of methods that messages travel with

frame_head = Struct(">BHI")
header_head = Struct(">BHIHHQ")  # frame head, class, weight, body size
