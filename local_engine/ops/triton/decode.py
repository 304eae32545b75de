"""MXFP4 inside a kernel: the packed bytes of weights to the values that `tl.dot` takes.

A byte holds two E2M1 codes, the even column's in its low nibble (`mxfp4` has the format). Codes become floats
without a table: exponent and mantissa bits of a code are moved to where the target type has its own, which
makes a number 2^126 times too small (its subnormal included), and one product puts that right. The scale of
32 values is a factor for the caller to apply; both products are by powers of two.

Exact for every byte and every scale as `mxfp4.decode` is: scale 0 is 2^-127, and scale 255 an infinity, which
makes NaN of a zero. That needs subnormals, which neither `mul.bf16x2` nor `mul.f32` flushes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SHIFTED: tl.constexpr = tl.constexpr(2.0**126)
"""How many times too small a code is once its bits are in place."""

PACKED = tl.constexpr("""
{
.reg .b32 bytes, upper, code;
prmt.b32 bytes, $4, 0, 0x3120;
shr.u32 upper, bytes, 8;
and.b32 code, bytes, 0x000F000F;
mul.lo.u32 code, code, 0x1040;
and.b32 $0, code, 0x81C081C0;
and.b32 code, bytes, 0x00F000F0;
mul.lo.u32 code, code, 0x0104;
and.b32 $2, code, 0x81C081C0;
and.b32 code, upper, 0x000F000F;
mul.lo.u32 code, code, 0x1040;
and.b32 $1, code, 0x81C081C0;
and.b32 code, upper, 0x00F000F0;
mul.lo.u32 code, code, 0x0104;
and.b32 $3, code, 0x81C081C0;
}
""")
"""Four bytes to eight bf16: $0 and $1 hold the low nibbles of bytes 0, 1 and 2, 3; $2 and $3 the high ones.

Bytes 1 and 2 change places first, so that those of one register are 16 bits apart. A code is written twice by
one product, its sign where bit 15 is and its magnitude where bits 6 to 8 are, and a mask drops the rest. The
products run on another pipe than the masks, which are what there is most of. Byte n's values are element n of
the results whatever four bytes a thread holds: a layout may put two rows into one register."""


@triton.jit
def decode_mxfp4(packed, COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr):
    """u8 bytes [..., J] to their E2M1 values in COMPUTE: (even columns [..., J], odd columns [..., J]).

    PACKED_BODY takes bf16 only; the other body is for the interpreter and for fp32.
    """
    if PACKED_BODY:
        even, odd = tl.inline_asm_elementwise(
            PACKED, "=r,=r,=r,=r,r", [packed], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
        factor = tl.full([1], SHIFTED, tl.bfloat16)
        even, odd = even * factor, odd * factor
    else:
        byte = packed.to(tl.uint32)
        even = _widened(byte).to(COMPUTE)
        odd = _widened(byte >> 4).to(COMPUTE)
    return even, odd


@triton.jit
def _widened(code):
    """The E2M1 value, fp32, of the low four bits of a u32."""
    return (((code & 7) << 22) | ((code & 8) << 28)).to(tl.float32, bitcast=True) * SHIFTED


@triton.jit
def scale_factor(scale, COMPUTE: tl.constexpr):
    """What u8 scales stand for, 2^(scale - 127), in COMPUTE: the scale is an exponent, and 0 a subnormal."""
    if COMPUTE is tl.float32:
        factor = tl.maximum(scale.to(tl.int32) << 23, 0x00400000).to(tl.float32, bitcast=True)
    else:
        factor = tl.maximum(scale.to(tl.int32) << 7, 0x0040).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return factor


@triton.jit
def place(column, COLUMNS: tl.constexpr):
    """Where an operand's row of COLUMNS values keeps `column`, so that it meets the weights as decoded: even
    columns fill the first half of a row, odd ones the second."""
    return (column % 2) * (COLUMNS // 2) + column // 2


@triton.jit
def decode_all(packed, scales, values, COMPUTE: tl.constexpr, PACKED_BODY: tl.constexpr):
    """Program s decodes 256 bytes under scale s of 256: values f32 [256, 512]."""
    scale = tl.program_id(0)
    byte = tl.arange(0, 256)
    even, odd = decode_mxfp4(tl.load(packed + byte), COMPUTE, PACKED_BODY)
    factor = scale_factor(tl.load(scales + scale + tl.zeros([256], tl.int32)), COMPUTE)
    at = values + scale * 512 + 2 * byte
    tl.store(at, (even * factor).to(tl.float32))
    tl.store(at + 1, (odd * factor).to(tl.float32))


def every_value(device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """What every byte stands for under every scale, by the body that kernels use there: f32 [256, 512]."""
    every = torch.arange(256, device=device, dtype=torch.uint8)
    values = torch.empty(256, 512, dtype=torch.float32, device=device)
    compute = tl.bfloat16 if dtype == torch.bfloat16 else tl.float32
    packed_body = values.is_cuda and dtype == torch.bfloat16
    decode_all[(256,)](every, every, values, COMPUTE=compute, PACKED_BODY=packed_body, num_warps=2)
    return values
