"""How an answer lies in the cache: a version byte, then zstd-compressed canonical JSON."""

import threading
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic_core import from_json

from common.errors import InputError
from common.fingerprint import canonical_json
from common.records import Usage
from teacher.base import Reply

if TYPE_CHECKING:
    import zstandard

VERSION = 1
_LEVEL = 3

# What most entries have in common: zstd starts from these bytes as if it had just seen them, which
# halves a short entry. They are part of format version 1: never edit, add a version instead.
_DICTIONARY_1 = (
    b"increase in net sales and operating profit, which supports earnings; the company's revenue "
    b"fell from the previous year, a decline that is negative for investors. The text only states "
    b"a fact, a plan or an appointment without a stated effect on earnings or the share price. "
    b'"id":"chatcmpl-","object":"chat.completion","choices":[{"finish_reason":"stop","index":0,'
    b'"logprobs":{"content":[{"bytes":[],"logprob":-0.0,"token":"","top_logprobs":[]}]},"message":'
    b'{"content":"{\\"label\\": \\"","role":"assistant","tool_calls":[]}}],"created":17,'
    b'"usage":{"completion_tokens":,"prompt_tokens":,"total_tokens":}'
    b'{"body":{"content":[{"text":"{\\"label\\":\\"neutral\\",\\"rationale\\":\\"The company\'s '
    b'\\",\\"confidence\\":0.9}","type":"text"}],"id":"msg_01","model":"claude-haiku-4-5",'
    b'"role":"assistant","stop_reason":"end_turn","stop_sequence":null,"type":"message","usage":'
    b'{"cache_creation":{"ephemeral_1h_input_tokens":0,"ephemeral_5m_input_tokens":0},'
    b'"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"input_tokens":300,'
    b'"output_tokens":60,"service_tier":"standard"}},'
    b'{"body":{"confidence":0.95,"label":"negative","label":"positive","rationale":"","raw":""},'
    b'"model":"claude","provider":"recorded","received_at":179,"seconds":0.,"teacher":"claude",'
    b'"terms":"","usage":{"cache_read_tokens":0,"cache_write_tokens":0,"input_tokens":0,'
    b'"output_tokens":0,"usd":0.0}}'
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A reply with its provenance: who was asked, through which service, under which terms."""

    reply: Reply
    teacher: str
    provider: str
    terms: str = ""


def encode(entry: Entry) -> bytes:
    """The bytes of one entry; the last four of them are a checksum."""
    reply = entry.reply
    text = canonical_json(
        {
            "body": reply.body,
            "usage": reply.usage.model_dump(),
            "model": reply.model,
            "received_at": round(reply.received_at, 3),
            "seconds": round(reply.seconds, 4),
            "teacher": entry.teacher,
            "provider": entry.provider,
            "terms": entry.terms,
        }
    ).encode()
    packed = bytes([VERSION]) + _tools().compressor.compress(text)
    return packed + zlib.crc32(packed).to_bytes(4, "big")


def decode(packed: bytes) -> Entry:
    """Raises InputError for bytes that are damaged or of a version this program does not know."""
    values = from_json(unpack(packed))  # three times as fast as json.loads
    usage = Usage(**values["usage"])
    reply = Reply(values["body"], usage, values["model"], values["received_at"], values["seconds"])
    return Entry(reply, values["teacher"], values["provider"], values["terms"])


def unpack(packed: bytes) -> bytes:
    """The JSON of an entry. Raises InputError for damage or an unknown version."""
    if len(packed) < 6 or zlib.crc32(packed[:-4]).to_bytes(4, "big") != packed[-4:]:
        raise InputError(
            f"a cached answer of {len(packed)} bytes is damaged; drop it and ask again."
        )
    if packed[0] != VERSION:
        raise InputError(
            f"a cached answer has format version {packed[0]}, this program reads {VERSION}: "
            "it was written by a newer finstill."
        )
    return _tools().decompressor.decompress(packed[1:-4])


class _Tools(threading.local):
    """Compressors are not safe for use from two threads at once: each thread has its own."""

    compressor: "zstandard.ZstdCompressor"
    decompressor: "zstandard.ZstdDecompressor"

    def __init__(self) -> None:
        import zstandard

        words = zstandard.ZstdCompressionDict(
            _DICTIONARY_1, dict_type=zstandard.DICT_TYPE_RAWCONTENT
        )
        self.compressor = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=words, write_checksum=False, write_dict_id=False
        )
        self.decompressor = zstandard.ZstdDecompressor(dict_data=words)


@lru_cache(maxsize=1)
def _tools() -> _Tools:
    return _Tools()
