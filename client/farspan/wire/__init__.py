"""Commands, events and control messages <-> bytes; the only importer of protobuf code.

What comes in is judged before it becomes objects: sizes, counts and depths against core/limits.py;
anything wrong is a ProtocolError, whatever the bytes. What goes out passes the same judgement, so
`decode(encode(x)) == x`. The contract is protos/farspan/v1/stream.proto; read docs/protocol.md.
"""

from farspan.wire.control import (
    CONTROL_BYTES_MAX,
    DATA_BYTES_MAX,
    MAJOR,
    MINOR,
    SERVICE,
    CloseReply,
    CloseRequest,
    DescribeReply,
    DescribeRequest,
    Device,
    Down,
    DownloadRequest,
    Hello,
    ListReply,
    ListRequest,
    SessionInfo,
    TransferHeader,
    Up,
    UploadReply,
    Welcome,
    decode,
    decode_chunk,
    decode_transfer_header,
    encode,
    encode_chunk,
    encode_transfer_header,
)
from farspan.wire.events import decode_events, encode_event_batches, encode_events
from farspan.wire.frames import FrameHeader, decode_frame, encode_frame, frame_header
from farspan.wire.statics import decode_static, encode_static

__all__ = [
    "CONTROL_BYTES_MAX",
    "DATA_BYTES_MAX",
    "MAJOR",
    "MINOR",
    "SERVICE",
    "CloseReply",
    "CloseRequest",
    "DescribeReply",
    "DescribeRequest",
    "Device",
    "Down",
    "DownloadRequest",
    "FrameHeader",
    "Hello",
    "ListReply",
    "ListRequest",
    "SessionInfo",
    "TransferHeader",
    "Up",
    "UploadReply",
    "Welcome",
    "decode",
    "decode_chunk",
    "decode_events",
    "decode_frame",
    "decode_static",
    "decode_transfer_header",
    "encode",
    "encode_chunk",
    "encode_event_batches",
    "encode_events",
    "encode_frame",
    "encode_static",
    "encode_transfer_header",
    "frame_header",
]
