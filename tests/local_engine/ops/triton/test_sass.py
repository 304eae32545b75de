"""The count of a loop's instructions counts the loop over the weights, and nothing around it."""

from __future__ import annotations

import pytest

from tests.local_engine.ops.triton.sass import Listing, load_widths, parse

CODE = """
        /*0000*/                   LDG.E.U16 R2, desc[UR4][R2.64] ;   /* 0x0000000402027981 */
                                                                      /* 0x000ea4000c1e1500 */
        /*0010*/                   STL [R1], R5 ;                     /* 0x0000000501007387 */
        /*0020*/                   LDS R3, [R4] ;                     /* 0x0000000004037984 */
        /*0030*/              @!P0 LDGSTS.E.BYPASS.128 [R4], desc[UR4][R6.64] ;
        /*0040*/                   LDG.E.U8 R9, desc[UR4][R8.64] ;
        /*0050*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0060*/              @P1  BRA 0x30 ;
        /*0070*/                   LDL R5, [R1] ;
        /*0080*/              @P2  BRA 0x10 ;
        /*0090*/                   NOP ;
        /*00a0*/                   LDG.E R2, desc[UR4][R2.64] ;
        /*00b0*/                   BRA 0xa0 ;
        /*00c0*/                   BRA 0xd0 ;
"""


def test_the_loop_is_the_innermost_with_wide_loads() -> None:
    code = Listing(parse(CODE), registers=10, stack_bytes=0)

    assert [one.address for one in code.loop()] == [0x30, 0x40, 0x50, 0x60]
    assert load_widths(code.loop()) == {128: 1, 8: 1}
    assert load_widths(code.instructions) == {128: 1, 16: 1, 8: 1, 32: 1}
    assert code.spills == 2


def test_a_kernel_without_wide_loads_has_no_such_loop() -> None:
    code = Listing(parse(CODE.replace("128", "64")), registers=10, stack_bytes=0)

    with pytest.raises(LookupError, match="none of 3 loops"):
        code.loop()
