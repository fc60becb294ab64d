"""What a GPU computes between two products, as kernels of Triton; fused.py calls them.

Each program takes a tile of R rows, then the next one that no other program takes. It reads and
writes every element once, computes in float32, and keeps the sums over its rows until its end: the
gradients of bias, weight and shift.

T rows, D columns, N the power of two that holds them, P programs. Names in capitals are tensors;
one that is None is left out, and so is the code for it.
"""

import triton
import triton.language as tl

# ------------------------------------------------------------------------------------------- parts


@triton.jit
def load(TENSOR, cells, inside):
    """Some elements in float32, and 0 for those that are not inside."""
    return tl.load(TENSOR + cells, inside, 0.0).to(tl.float32)


@triton.jit
def kept(seed, rows, first_kept, N: tl.constexpr):
    """(R, N): which elements of some rows dropout leaves; the same ones for the same seed."""
    # Eight elements share a draw of Philox, 16 bits each, since a draw for each would take longer
    # than reading and writing it. Seven rounds are the fewest that pass all tests of randomness
    # (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3").
    groups = rows[:, None] * (N // 8) + tl.arange(0, N // 8)[None, :]
    a, b, c, d = tl.randint4x(seed, groups, n_rounds=7)
    a = a.to(tl.uint32, bitcast=True)
    b = b.to(tl.uint32, bitcast=True)
    c = c.to(tl.uint32, bitcast=True)
    d = d.to(tl.uint32, bitcast=True)
    low = tl.join(tl.join(a & 0xFFFF, b & 0xFFFF), tl.join(c & 0xFFFF, d & 0xFFFF))
    high = tl.join(tl.join(a >> 16, b >> 16), tl.join(c >> 16, d >> 16))
    # (R, N / 8, 2, 2, 2) -> (R, N)
    return tl.reshape(tl.join(low, high), (rows.shape[0], N)) >= first_kept


@triton.jit
def cdf(u):
    """The standard normal distribution's, which GELU multiplies by."""
    return 0.5 + 0.5 * tl.erf(u * 0.7071067811865476)  # 1 / sqrt(2)


@triton.jit
def density(u):
    """The standard normal distribution's."""
    return 0.3989422804014327 * tl.exp(-0.5 * u * u)  # 1 / sqrt(2 pi)


# --------------------------------------------------------------- LayerNorm(x + dropout(h + bias))


@triton.jit(do_not_specialize=["n_rows"])
def norm_forward(
    X,  # (T, D)
    H,  # (T, D)
    BIAS,  # (D,) or None
    WEIGHT,  # (D,)
    SHIFT,  # (D,)
    FULL,  # (T, D): gets the result
    LOW,  # (T, D): gets it in another type, or None
    MEAN,  # (T,): gets what the backward pass needs of each row
    SCALE,  # (T,): likewise, 1 / standard deviation
    SEED,  # (1,) int64, or None: drop nothing
    n_rows,
    eps,
    first_kept,  # of 16 random bits
    kept_scale,
    D: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
):
    cols = tl.arange(0, N)
    weight = load(WEIGHT, cols, cols < D)[None, :]
    shift = load(SHIFT, cols, cols < D)[None, :]
    if BIAS is not None:
        bias = load(BIAS, cols, cols < D)[None, :]
    if SEED is not None:
        seed = tl.load(SEED)
    for first in range(tl.program_id(0) * R, n_rows, tl.num_programs(0) * R):
        rows = first + tl.arange(0, R)
        inside = (rows < n_rows)[:, None] & (cols < D)[None, :]
        cells = rows[:, None].to(tl.int64) * D + cols[None, :]
        h = load(H, cells, inside)
        if BIAS is not None:
            h += bias
        if SEED is not None:
            h = tl.where(kept(seed, rows, first_kept, N), h * kept_scale, 0.0)
        z = load(X, cells, inside) + h
        mean = tl.sum(z, 1) / D
        centred = tl.where(inside, z - mean[:, None], 0.0)
        scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
        y = centred * scale[:, None] * weight + shift
        tl.store(FULL + cells, y.to(FULL.dtype.element_ty), inside)
        if LOW is not None:
            tl.store(LOW + cells, y.to(LOW.dtype.element_ty), inside)
        tl.store(MEAN + rows, mean, rows < n_rows)
        tl.store(SCALE + rows, scale, rows < n_rows)


@triton.jit(do_not_specialize=["n_rows"])
def norm_backward(
    FOR_FULL,  # (T, D): the gradient of the result
    FOR_LOW,  # (T, D): of its copy, or None
    X,
    H,
    BIAS,
    WEIGHT,
    MEAN,
    SCALE,
    SEED,
    FOR_X,  # (T, D): gets the gradient of x
    FOR_H,  # (T, D): of h
    SUMS,  # (P, 3, D): of weight, shift and bias, as far as the rows of a program make them
    n_rows,
    first_kept,
    kept_scale,
    D: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
):
    cols = tl.arange(0, N)
    weight = load(WEIGHT, cols, cols < D)[None, :]
    if BIAS is not None:
        bias = load(BIAS, cols, cols < D)[None, :]
        for_bias = tl.zeros((R, N), tl.float32)
    if SEED is not None:
        seed = tl.load(SEED)
    for_weight = tl.zeros((R, N), tl.float32)
    for_shift = tl.zeros((R, N), tl.float32)
    for first in range(tl.program_id(0) * R, n_rows, tl.num_programs(0) * R):
        rows = first + tl.arange(0, R)
        inside = (rows < n_rows)[:, None] & (cols < D)[None, :]
        cells = rows[:, None].to(tl.int64) * D + cols[None, :]
        # What the forward pass normalised is computed again, with the same elements dropped, so
        # that neither it nor a mask has to be kept.
        h = load(H, cells, inside)
        if BIAS is not None:
            h += bias
        if SEED is not None:
            keep = kept(seed, rows, first_kept, N)
            h = tl.where(keep, h * kept_scale, 0.0)
        mean = load(MEAN, rows, rows < n_rows)[:, None]
        scale = load(SCALE, rows, rows < n_rows)[:, None]
        normal = tl.where(inside, (load(X, cells, inside) + h - mean) * scale, 0.0)
        # The residual and the next product both read the result; their gradients are added here.
        grad = load(FOR_FULL, cells, inside)
        if FOR_LOW is not None:
            grad += load(FOR_LOW, cells, inside)
        for_weight += grad * normal
        for_shift += grad
        grad *= weight
        along = tl.sum(grad * normal, 1)[:, None] / D
        for_z = (grad - tl.sum(grad, 1)[:, None] / D - normal * along) * scale
        for_z = tl.where(inside, for_z, 0.0)
        tl.store(FOR_X + cells, for_z.to(FOR_X.dtype.element_ty), inside)
        if SEED is not None:
            for_z = tl.where(keep, for_z * kept_scale, 0.0)
        tl.store(FOR_H + cells, for_z.to(FOR_H.dtype.element_ty), inside)
        if BIAS is not None:
            for_bias += for_z
    sums = SUMS + tl.program_id(0) * 3 * D + cols
    tl.store(sums, tl.sum(for_weight, 0), cols < D)
    tl.store(sums + D, tl.sum(for_shift, 0), cols < D)
    if BIAS is not None:
        tl.store(sums + 2 * D, tl.sum(for_bias, 0), cols < D)


# ---------------------------------------------------------------------------------- GELU(u + bias)


@triton.jit(do_not_specialize=["n_rows"])
def gelu_forward(
    U,  # (T, D)
    BIAS,  # (D,)
    OUT,  # (T, D): gets the result
    n_rows,
    D: tl.constexpr,
    N: tl.constexpr,  # columns of a tile: not all of them
    R: tl.constexpr,
):
    cols = tl.program_id(1) * N + tl.arange(0, N)
    bias = load(BIAS, cols, cols < D)[None, :]
    for first in range(tl.program_id(0) * R, n_rows, tl.num_programs(0) * R):
        rows = first + tl.arange(0, R)
        inside = (rows < n_rows)[:, None] & (cols < D)[None, :]
        cells = rows[:, None].to(tl.int64) * D + cols[None, :]
        u = load(U, cells, inside) + bias
        tl.store(OUT + cells, (u * cdf(u)).to(OUT.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["n_rows"])
def gelu_backward(
    FOR_OUT,  # (T, D): the gradient of the result
    U,
    BIAS,
    FOR_U,  # (T, D): gets the gradient of u
    SUMS,  # (P, D): of bias, as far as the rows of a program make it
    n_rows,
    D: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
):
    cols = tl.program_id(1) * N + tl.arange(0, N)
    bias = load(BIAS, cols, cols < D)[None, :]
    for_bias = tl.zeros((R, N), tl.float32)
    for first in range(tl.program_id(0) * R, n_rows, tl.num_programs(0) * R):
        rows = first + tl.arange(0, R)
        inside = (rows < n_rows)[:, None] & (cols < D)[None, :]
        cells = rows[:, None].to(tl.int64) * D + cols[None, :]
        u = load(U, cells, inside) + bias
        for_u = load(FOR_OUT, cells, inside) * (cdf(u) + u * density(u))
        tl.store(FOR_U + cells, for_u.to(FOR_U.dtype.element_ty), inside)
        for_bias += for_u
    tl.store(SUMS + tl.program_id(0) * D + cols, tl.sum(for_bias, 0), cols < D)
