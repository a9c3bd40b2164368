# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Numbers and functions of one number that Numba compiles, in the precision of their argument.

In float32, exp and log are straight code without a branch, so that the compiler computes them for eight edges at a
time; the C library's, called in float64, take one number after the other.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from hakg_dgl.geometry import guards

inlined = njit(forceinline=True, error_model="numpy", fastmath={"contract"})
"""For functions of a few numbers, which their callers' loops take in; nothing is assumed about infinity or NaN."""
adding = njit(forceinline=True, error_model="numpy", fastmath={"contract", "reassoc"})
"""For sums over d, whose order the compiler may choose: it is the same in every run."""

_LINES_AHEAD = 4
"""Cache lines of a row that are fetched before it is read: 64 numbers of float32."""
_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
# Minimax on [-0.5, 0.5] to float32's rounding: 2^f by its Taylor series, log(1 + m) by Cephes' logf.
_EXP2 = tuple(_LN2**k / math.factorial(k) for k in range(8))
_LOG = (
    3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1, -1.2420140846e-1,
    1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2,
)  # fmt: skip

_ASIN = (4.2163199048e-2, 2.4181311049e-2, 4.5470025998e-2, 7.4953002686e-2, 1.6666752422e-1)
"""Cephes' asinf, the highest power first."""


def stamp_of(*files: str) -> int:
    """A number that changes with the sources that kernels are compiled from, this one and the guards among them."""
    return zlib.crc32(b"".join(Path(file).read_bytes() for file in (*files, __file__, guards.__file__)))


def number(value, like):
    """``value`` in the type of ``like``: Numba would compute a float32 times a literal in float64."""
    return like.dtype.type(value)


@overload(number, jit_options={"forceinline": True})
def _number(value, like):
    convert = np.float32 if like == types.float32 else np.float64
    return lambda value, like: convert(value)


def rounding(like):
    """The distance from 1 to the next number of the type of ``like``."""
    return np.finfo(like.dtype).eps


@overload(rounding, jit_options={"forceinline": True})
def _rounding(like):
    eps = np.finfo(np.float32).eps if like == types.float32 else np.finfo(np.float64).eps
    return lambda like: eps


def series(q, coefficients):
    """The power series and its derivative at q: 8 of the coefficients in float32, all of them in float64."""
    return np.polyval(coefficients[::-1], q), np.polyval(np.polyder(coefficients[::-1]), q)


@overload(series, jit_options={"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}})
def _series(q, coefficients):
    terms = 7 if q == types.float32 else coefficients.count - 1

    def horner(q, coefficients):
        value, slope = number(coefficients[terms], q), number(0.0, q)
        for k in range(terms):
            slope = slope * q + value
            value = value * q + number(coefficients[terms - 1 - k], q)
        return value, slope

    return horner


@intrinsic
def _bits(typingctx, x):
    """The bits of a float32 as an int32."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), code


@intrinsic
def _of_bits(typingctx, x):
    """The float32 of the bits in an int32."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@intrinsic
def fetch_ahead(typingctx, table, row):
    """Have the lines of a row of a C-contiguous table on their way to the cache."""

    def code(context, builder, signature, arguments):
        table_type = signature.args[0]
        array = context.make_array(table_type)(context, builder, arguments[0])
        columns = builder.extract_value(array.shape, 1)
        place = builder.gep(array.data, [builder.mul(arguments[1], columns)])
        start = builder.bitcast(place, ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), flag, flag, flag])
        name = "llvm.prefetch.p0" if ir.IntType(8).as_pointer().is_opaque else "llvm.prefetch.p0i8"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        for line in range(_LINES_AHEAD):
            spot = builder.gep(start, [ir.IntType(64)(line * 64)])
            builder.call(function, [spot, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(table, types.int64), code


def exp(x):
    """The exponential of x between -87 and 0."""
    return np.exp(x)


@overload(exp, jit_options={"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}})
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def of_float32(x):
        scaled = x * np.float32(_LOG2_E)
        whole = np.int32(scaled - np.float32(0.5))
        f = scaled - np.float32(whole)
        total = np.float32(_EXP2[7])
        total = total * f + np.float32(_EXP2[6])
        total = total * f + np.float32(_EXP2[5])
        total = total * f + np.float32(_EXP2[4])
        total = total * f + np.float32(_EXP2[3])
        total = total * f + np.float32(_EXP2[2])
        total = total * f + np.float32(_EXP2[1])
        total = total * f + np.float32(_EXP2[0])
        return total * _of_bits(np.int32((whole + np.int32(127)) << np.int32(23)))

    return of_float32


def log(x):
    """The natural logarithm of a normal x > 0."""
    return np.log(x)


@overload(log, jit_options={"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}})
def _log(x):
    if x != types.float32:
        return lambda x: math.log(x)

    def of_float32(x):
        bits = _bits(x)
        power = np.int32(np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23))  # the rest is in [sqrt 1/2, sqrt 2)
        m = _of_bits(np.int32(bits - np.int32(power << np.int32(23)))) - np.float32(1.0)
        total = np.float32(_LOG[8])
        total = total * m + np.float32(_LOG[7])
        total = total * m + np.float32(_LOG[6])
        total = total * m + np.float32(_LOG[5])
        total = total * m + np.float32(_LOG[4])
        total = total * m + np.float32(_LOG[3])
        total = total * m + np.float32(_LOG[2])
        total = total * m + np.float32(_LOG[1])
        total = total * m + np.float32(_LOG[0])
        squared = m * m
        total = total * m * squared - np.float32(0.5) * squared
        return np.float32(power) * np.float32(_LN2) + (m + total)

    return of_float32


def arcsine(x):
    """asin of x in [-1, 1]."""
    return np.arcsin(x)


@overload(arcsine, jit_options={"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}})
def _arcsine(x):
    if x != types.float32:
        return lambda x: math.asin(x)

    def of_float32(x):
        near, far = _near_arcsine(x)
        angle = np.float32(math.pi / 2) - np.float32(2.0) * near if far else near
        return -angle if x < np.float32(0.0) else angle

    return of_float32


def arccosine(x):
    """acos of x in [-1, 1]."""
    return np.arccos(x)


@overload(arccosine, jit_options={"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}})
def _arccosine(x):
    if x != types.float32:
        return lambda x: math.acos(x)

    def of_float32(x):
        near, far = _near_arcsine(x)
        negative = x < np.float32(0.0)
        beside = np.float32(math.pi) - np.float32(2.0) * near if negative else np.float32(2.0) * near
        angle = -near if negative else near
        return beside if far else np.float32(math.pi / 2) - angle

    return of_float32


@inlined
def _near_arcsine(x):
    """asin of the size of x, a float32, or where that is above 1/2 of sqrt((1 - |x|) / 2); and whether it is."""
    size = abs(x)
    far = size > np.float32(0.5)
    z = np.float32(0.5) * (np.float32(1.0) - size) if far else size * size
    root = np.sqrt(z) if far else size
    total = np.float32(_ASIN[0])
    total = total * z + np.float32(_ASIN[1])
    total = total * z + np.float32(_ASIN[2])
    total = total * z + np.float32(_ASIN[3])
    total = total * z + np.float32(_ASIN[4])
    return root + total * z * root, far
