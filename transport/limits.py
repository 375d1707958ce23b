"""What the protocol allows at most, each with its unit and its reason.

A receiver checks these before it allocates anything.
"""

from __future__ import annotations

from typing import Final

from codec import limits as codec_limits

# [bytes] AWS IoT, the tightest broker in use, takes packets of 128 KiB; 256 of them are left for
# MQTT's header (10) and the longest topic (179). Nothing legal is longer.
MAX_FRAME_BYTES: Final = (128 << 10) - 256

# [bytes] One segment; what the codec allows leaves 1 KiB of a packet for MQTT's header (5), the
# longest topic (180) and the frame's own 8.
MAX_SEGMENT_BYTES: Final = codec_limits.MAX_SEGMENT_BYTES

# [segments] A manifest names each with 36 bytes (length and SHA-256, which do not compress), and
# it must fit one packet: 2,800 take 100,800 bytes and leave 30 KB for an adapter's layout and
# configuration. With segments of 32 KiB that is an update of 91 MB.
MAX_SEGMENTS: Final = 2_800

# [bytes] An adapter manifest before compression: 100,800 for the segments, 100 for each tensor of a
# deep model (1,764 of them), and PEFT's configuration with every module spelled out.
MAX_ADAPTER_MANIFEST_BYTES: Final = 1 << 20

# [bytes of UTF-8] PEFT's adapter_config.json; with expanded target modules some 30 KB.
MAX_ADAPTER_CONFIG_BYTES: Final = 256 << 10

# [tensors], [bytes of UTF-8], [dimensions], [per dimension] What a layout may have.
MAX_TENSORS: Final = codec_limits.MAX_TENSORS
MAX_NAME_BYTES: Final = codec_limits.MAX_NAME_BYTES
MAX_DIMENSIONS: Final = codec_limits.MAX_DIMENSIONS
MAX_DIMENSION: Final = codec_limits.MAX_COORDINATES

# [bytes] A signer's certificate as DER: eight times an Ed25519 one of this system, and enough for
# the extensions of a company's own authority.
MAX_CERTIFICATE_BYTES: Final = 4 << 10

# Counts (rounds, versions, epochs, steps, examples, tokens) have nine digits, as in topics.
MAX_COUNT: Final = 999_999_999

# [bytes] Segments of an adapter that a device keeps before it has seen the manifest that names
# them: the manifest comes first, so this many are already a broker's odd order, or an attack.
MAX_EARLY_BYTES: Final = 16 << 20

# [bytes] Publications up to this length are control messages; the link repeats those that the
# broker had not acknowledged when a connection broke. Longer ones are repeated by their transfer.
MAX_CONTROL_BYTES: Final = 4 << 10
