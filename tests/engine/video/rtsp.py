"""A small RTSP server: H.264 over RTP, interleaved in the RTSP connection (RFC 2326 section 10.12, RFC 6184)."""

from __future__ import annotations

import re
import socketserver
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np

_SDP = "\r\n".join(
    [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=test",
        "c=IN IP4 127.0.0.1",
        "t=0 0",
        "m=video 0 RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 packetization-mode=1",
        "a=control:track",
        "",
    ]
)


def encode(images: Iterable[np.ndarray]) -> list[list[bytes]]:
    """For each picture its NAL units, without start codes; a key frame every five pictures, parameter sets before each."""
    context = av.CodecContext.create("libx264", "w")
    pictures = []
    for index, image in enumerate(images):
        if not context.width:
            context.height, context.width = image.shape[:2]
            context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
            context.options = {"g": "5", "bf": "0", "tune": "zerolatency"}
        frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")
        frame.pts = index
        pictures += [bytes(packet) for packet in context.encode(frame)]
    pictures += [bytes(packet) for packet in context.encode(None)]
    return [[unit for unit in re.split(rb"\x00\x00\x00?\x01", picture) if unit] for picture in pictures]


@contextmanager
def rtsp_server(connections: Sequence[Sequence[Sequence[bytes]]]) -> Iterator[str]:
    """Each connection that asks for PLAY gets the next list of pictures, after which it is cut; later ones get 404. Gives the URL."""
    waiting = list(connections)

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (request := self.rfile.readline().decode()).strip():
                method, url = request.split()[:2]
                headers = {}
                while line := self.rfile.readline().decode().strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                if method == "DESCRIBE" and not waiting:
                    self.answer(headers, status="404 Not Found")
                elif method == "DESCRIBE":
                    self.answer(headers, f"Content-Base: {url}/", "Content-Type: application/sdp", body=_SDP)
                elif method == "SETUP":
                    self.answer(headers, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
                elif method == "PLAY":
                    self.answer(headers, "Session: 1", "RTP-Info: url=track;seq=0;rtptime=0")
                    self.play(waiting.pop(0))
                    return
                else:
                    self.answer(headers, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")

        def answer(self, request: dict[str, str], *headers: str, status: str = "200 OK", body: str = "") -> None:
            lines = [f"RTSP/1.0 {status}", f"CSeq: {request['cseq']}", *headers, f"Content-Length: {len(body)}", "", body]
            self.wfile.write("\r\n".join(lines).encode())

        def play(self, pictures: Sequence[Sequence[bytes]]) -> None:
            sequence = 0
            for index, units in enumerate(pictures):
                for position, unit in enumerate(units):
                    marker = 0x80 if position == len(units) - 1 else 0
                    packet = struct.pack(">BBHII", 0x80, 96 | marker, sequence, index * 3600, 1) + unit
                    self.wfile.write(struct.pack(">BBH", ord("$"), 0, len(packet)) + packet)
                    sequence += 1

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Session) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"rtsp://127.0.0.1:{server.server_address[1]}/camera"
        finally:
            server.shutdown()
