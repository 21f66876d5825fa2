"""Where the bytes of xet mode are: the folder of hf_xet's own ``local://`` store, which its tests use."""

import struct
from pathlib import Path

_RECORD_BYTES = 48
_HAS_VERIFICATION, _HAS_METADATA = 1 << 31, 1 << 30
_END = b"\xff" * 32


def find_xet_hashes(cas_dir: Path) -> dict[str, str]:
    """Return the xet hash of every file in the store, by the file's SHA-256."""
    found: dict[str, str] = {}
    for path in cas_dir.rglob("*.mdb"):
        found |= _read_shard(path.read_bytes())
    return found


def _read_shard(shard: bytes) -> dict[str, str]:
    """Read a shard: records of 48 bytes.

    After the shard's header, each file has a header (32 bytes of hash, flags, number of segments), its segments, as
    many verification records if a flag says so, and, if another does, one metadata record, which starts with the
    SHA-256. A hash of ones ends the files.
    """
    found = {}
    at = _RECORD_BYTES
    while at + _RECORD_BYTES <= len(shard) and shard[at : at + 32] != _END:
        xet_hash = shard[at : at + 32]
        flags, num_segments = struct.unpack_from("<II", shard, at + 32)
        at += _RECORD_BYTES * (1 + num_segments * (2 if flags & _HAS_VERIFICATION else 1))
        if flags & _HAS_METADATA:
            found[_written(shard[at : at + 32])] = _written(xet_hash)
            at += _RECORD_BYTES
    return found


def _written(raw_hash: bytes) -> str:
    """Write a hash as the Hub does: four numbers of 64 bits, little-endian."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw_hash))
