"""Frames in, annotated video and boxes out. Nothing here needs PyTorch."""

from engine.video.camera import Camera
from engine.video.files import VideoFile
from engine.video.folder import ImageFolder
from engine.video.frames import Frame, Source
from engine.video.reader import Reader
from engine.video.sources import open_source
from engine.video.stream import NetworkStream

__all__ = ["Camera", "Frame", "ImageFolder", "NetworkStream", "Reader", "Source", "VideoFile", "open_source"]
