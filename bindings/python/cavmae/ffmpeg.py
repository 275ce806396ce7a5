"""FFmpegPrograms: media files decoded by the programs ffmpeg and ffprobe, of any version.

libcavmae-media.so needs FFmpeg's libraries of the version that it was built for, which another machine may not have. Where
it cannot be loaded, and nobody has set a decoder, a context takes the programs instead, and says so in the log.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np

from . import _records as r
from ._errors import BackendError, CavmaeError, FileError, FormatError, MediaError
from ._library import library
from .decoder import Decoder, Source
from .media import MediaInfo, source_of

if TYPE_CHECKING:
    from .context import Context

# Nothing but the file itself is opened, whatever it says: no protocol but files, and of formats those that name no others.
_FORMATS = (
    "aac,ac3,aiff,amr,ape,apng,asf,au,avi,caf,dv,eac3,flac,flv,gif,h264,hevc,image2,ivf,m4v,mov,mp3,mp4,matroska,mpeg,"
    "mpegts,mpegvideo,mxf,nut,obu,ogg,rm,tta,voc,w64,wav,webm,wv,yuv4mpegpipe,bmp_pipe,gif_pipe,j2k_pipe,jpeg_pipe,"
    "jpegls_pipe,pam_pipe,pbm_pipe,pgm_pipe,png_pipe,ppm_pipe,qoi_pipe,tiff_pipe,webp_pipe"
)
_QUIET = ("-v", "error", "-protocol_whitelist", "file", "-format_whitelist", _FORMATS)


class FFmpegPrograms(Decoder):
    """For Context.set_decoder: a process for each question, so slower than the plug-in, and for the rest like it.

    Sound is the plug-in's to the bit, but for files whose times jump by more than an hour, which the plug-in does not fill
    with silence; pictures of JPEG files differ by a few levels of 255, and are turned upright as
    far as that ffmpeg does it.
    """

    def __init__(self, ffmpeg: str = "ffmpeg", ffprobe: str = "ffprobe") -> None:
        found = shutil.which(ffmpeg), shutil.which(ffprobe)
        if found[0] is None or found[1] is None:
            raise BackendError(f"there are no programs {ffmpeg} and {ffprobe} (Debian: apt install ffmpeg)")
        self._ffmpeg, self._ffprobe = found[0], found[1]

    # ---- What is in it

    def probe(self, source: Source) -> MediaInfo:
        with _opened(source) as (file, name, descriptors):
            return self._describe(file, descriptors, *self._ask(file, name, descriptors))

    def _ask(self, file: str, name: str, descriptors: Tuple[int, ...]) -> Any:
        """ffprobe's words on the file, on its first audio and on its first video track."""
        wanted = ("-of", "json", "-show_format", "-show_streams")
        asked = [self._ffprobe, *_QUIET, *wanted, file]
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=descriptors)
        if done.returncode:
            raise FormatError(f"{name}: {_words(done.stderr)}")
        said = json.loads(done.stdout)
        streams = [one for one in said["streams"] if not one.get("disposition", {}).get("attached_pic")]
        audio: Any = next((one for one in streams if one.get("codec_type") == "audio"), {})
        video: Any = next((one for one in streams if one.get("codec_type") == "video"), {})
        if not audio and not video:
            raise MediaError(f"{name}: neither sound nor pictures in it")
        return said["format"], audio, video

    def _describe(self, file: str, descriptors: Tuple[int, ...], about: Any, audio: Any, video: Any) -> MediaInfo:
        width, height = int(video.get("width", 0)), int(video.get("height", 0))
        turns = [side.get("rotation", 0) for side in video.get("side_data_list", ())]
        if any(int(turn) % 180 for turn in turns):
            width, height = height, width
        form = about["format_name"]
        if form.endswith("_pipe") or form == "image2" or (video.get("nb_frames") == "1" and not audio):
            return MediaInfo(width=width, height=height, still=True)
        seconds = _number(about.get("duration"))
        if "matroska" in form:  # which says when it ends
            seconds -= max(0.0, _number(about.get("start_time")))
        if seconds <= 0 or form in ("aac", "mp3", "h264", "hevc"):  # which only guess, from how large they are
            seconds = self._measure(file, descriptors)
        rate = _ratio(video.get("avg_frame_rate")) or _ratio(video.get("r_frame_rate"))
        return MediaInfo(
            audio_channels=int(audio.get("channels", 0)),
            audio_rate=int(audio.get("sample_rate", 0)),
            width=width,
            height=height,
            seconds=seconds,
            frame_rate=rate,
        )

    def _measure(self, file: str, descriptors: Tuple[int, ...]) -> float:
        """From the first packet's start to the end of the last to end."""
        entries = "packet=stream_index,pts_time,duration_time"
        asked = [self._ffprobe, *_QUIET, "-of", "csv=p=0", "-show_entries", entries, file]
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=descriptors)
        start, end = math.inf, 0.0
        runs_on: dict[str, float] = {}  # where a packet without a time is
        for line in done.stdout.splitlines():
            stream, time, lasts = (line.split(",") + ["", ""])[:3]
            begins = _number(time) if time not in ("", "N/A") else runs_on.get(stream, 0.0)
            runs_on[stream] = begins + _number(lasts)
            start, end = min(start, begins), max(end, runs_on[stream])
        return round(max(0.0, end - start), 6) if math.isfinite(start) else 0.0

    # ---- Sound

    def audio(self, source: Source) -> "Tuple[np.ndarray[Any, Any], int]":
        with _opened(source) as (file, name, descriptors):
            about, audio, _ = self._ask(file, name, descriptors)
            if not audio:
                raise MediaError(f"{name}: no sound in it")
            # Silence where the track starts later than the file, or has a hole of 0.1 s. A file that starts before
            # time 0, for what its codec needs to begin with, starts there.
            start = round(max(0.0, _number(about.get("start_time"))) * int(audio["sample_rate"]))
            filled = ("-af", f"aresample=async=1:first_pts={start}:min_hard_comp=0.1")
            wanted = ("-map", "0:a:0", *filled, "-c:a", "pcm_f32be", "-f", "au", "pipe:1")
            done = subprocess.run(
                [self._ffmpeg, "-nostdin", *_QUIET, "-copyts", "-i", file, *wanted],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=descriptors,
            )
            if len(done.stdout) < 24:
                raise MediaError(f"{name}: no sound that can be decoded: {_words(done.stderr)}")
        # Sun's format: how long the head is, the size, the encoding, rate and channels.
        head, _, _, rate, channels = struct.unpack(">5I", done.stdout[4:24])
        values = (len(done.stdout) - head) // 4 // channels * channels
        samples = np.frombuffer(done.stdout, ">f4", values, head).astype(np.float32)
        return samples.reshape(-1, channels), int(rate)

    # ---- Pictures

    def frames(self, source: Source, seconds: "np.ndarray[Any, Any]") -> "Iterable[np.ndarray[Any, Any]]":
        with _opened(source) as (file, name, descriptors):
            asked = self._ask(file, name, descriptors)
            info = self._describe(file, descriptors, *asked)
            if not info.height:
                raise MediaError(f"{name}: no pictures in it")
            has_times = "duration" in asked[0]  # else a seek ends anywhere
            last: Optional[np.ndarray[Any, Any]] = None  # the file's, once asked for a time past its end
            for time in seconds:
                picture = last
                if picture is None and info.still:
                    exact = ("-sws_flags", "accurate_rnd+full_chroma_int+bicubic")
                    picture = last = self._first(file, descriptors, (), exact)
                elif picture is None:
                    seek = _seek(time - 1e-6)
                    before, after = (seek, ()) if has_times else ((), seek)
                    picture = self._first(file, descriptors, before, after)
                    if picture is None:
                        picture = last = self._last(file, descriptors, info.seconds)
                if picture is None:
                    raise MediaError(f"{name}: none of its pictures can be decoded")
                yield picture

    def _first(
        self, file: str, descriptors: Tuple[int, ...], seek: Sequence[str], how: Sequence[str]
    ) -> "Optional[np.ndarray[Any, Any]]":
        for picture in self._pictures(file, descriptors, seek, (*how, "-frames:v", "1")):
            return picture
        return None

    def _last(self, file: str, descriptors: Tuple[int, ...], seconds: float) -> "Optional[np.ndarray[Any, Any]]":
        for start in (_seek(seconds - 2), ()):
            found = None
            for found in self._pictures(file, descriptors, start, ()):
                pass
            if found is not None:
                return found
        return None

    def _pictures(
        self, file: str, descriptors: Tuple[int, ...], seek: Sequence[str], how: Sequence[str]
    ) -> "Iterator[np.ndarray[Any, Any]]":
        wanted = ("-map", "0:V:0", *how, "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1")
        process = subprocess.Popen(
            [self._ffmpeg, "-nostdin", *_QUIET, *seek, "-i", file, *wanted],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
        )
        with process:
            assert process.stdout is not None
            try:
                yield from _read_ppm(process.stdout)
            finally:
                process.kill()  # where nobody wants the rest


def _read_ppm(stream: IO[bytes]) -> "Iterator[np.ndarray[Any, Any]]":
    """Pictures "P6", width, height, 255, pixels."""
    while stream.readline().strip() == b"P6":
        width, height = (int(word) for word in stream.readline().split())
        stream.readline()
        pixels = stream.read(width * height * 3)
        if len(pixels) < width * height * 3:
            return
        yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _seek(seconds: float) -> Tuple[str, ...]:
    return ("-ss", f"{seconds:.6f}") if seconds > 0 else ()


def _number(word: Any) -> float:
    try:
        return float(word)
    except (TypeError, ValueError):
        return 0.0


def _ratio(word: Any) -> float:
    above, _, below = str(word or "").partition("/")
    return _number(above) / _number(below) if _number(below) else 0.0


def _words(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "ffmpeg gives nothing, and does not say why"


@contextmanager
def _opened(source: Source) -> "Iterator[Tuple[str, str, Tuple[int, ...]]]":
    """The file for ffmpeg's command line, its name for messages, and what a process has to be given to open it."""
    if isinstance(source, str):
        try:
            if not os.path.isfile(source):
                raise IsADirectoryError("it is no file") if os.path.exists(source) else FileNotFoundError("no such file")
            open(source, "rb").close()
        except OSError as error:
            raise FileError(f"{source}: {error.strerror or error}") from None
        yield f"file:{source}", source, ()
        return
    if not source:
        raise FormatError("memory: no media file: it is empty")
    memory = os.memfd_create("cavmae")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(source)
        yield f"file:/proc/self/fd/{memory}", "memory", (memory,)
    finally:
        os.close(memory)


# ---- In the plug-in's place

_lock = threading.Lock()


def ready_decoder(context: "Context") -> None:
    """Before a context's first media file: the programs take the plug-in's place where that cannot be loaded.

    Where they are not there either the library says so itself when it needs them.
    """
    if context._decoder is not None:
        return
    with _lock:
        if context._decoder is not None:
            return
        source, kept = source_of(b"")
        status = library().cavmae_media_probe_source(context._handle, source, r.new(r.cavmae_media_info))
        del kept
        if status != BackendError.status:  # the plug-in says that this is no media file
            context._decoder = True
            return
        reason = library().cavmae_last_error().decode("utf-8", "replace")
        try:
            context.set_decoder(FFmpegPrograms())  # which is the context's _decoder then
        except CavmaeError:
            context._decoder = True
            return
        context._tell(r.constant("LOG_INFO"), f"media files are decoded by the program ffmpeg: {reason}")
