"""Every loss written as loops over rows and pairs in Python floats: what `impl="torch"` is held to.

Arguments are nested lists; temperatures are lists with one value per anchor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]
Rows = Sequence[Row]


def dot(a: Row, b: Row) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def unit(a: Row) -> list[float]:
    norm = max(math.sqrt(dot(a, a)), 1e-12)
    return [x / norm for x in a]


def column(z: Rows, k: int) -> list[float]:
    return [row[k] for row in z]


def log_sum_exp(values: Sequence[float]) -> float:
    if not values:
        return -math.inf
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def reduced(rows: Row, reduction: str, weight: Row | None) -> float | list[float]:
    w = [1.0] * len(rows) if weight is None else list(weight)
    weighted = [a * b for a, b in zip(rows, w, strict=True)]
    if reduction == "none":
        return weighted
    total = math.fsum(weighted)
    return total if reduction == "sum" else total / math.fsum(w)


def softmax_row(
    logits: Row,
    share: Row,
    *,
    scale: float,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
) -> float:
    """Cross-entropy of one anchor; share says how its target is spread over the positives."""
    total = log_sum_exp(logits)
    if tau_plus:
        pulled = [s for s, w in zip(logits, share, strict=True) if w]
        pushed = [s for s, w in zip(logits, share, strict=True) if not w]
        mean = math.fsum(math.exp(s) for s in pulled) / len(pulled)
        left = math.fsum(math.exp(s) for s in pushed) - tau_plus * len(pushed) * mean
        left = max(left / (1 - tau_plus), len(pushed) * math.exp(-scale))
        total = math.log(math.fsum(math.exp(s) for s in pulled) + left)
    even = label_smoothing / len(logits)
    return math.fsum(
        ((1 - label_smoothing) * w + even) * (total - s) for s, w in zip(logits, share, strict=True)
    )


def at(index: int, size: int) -> list[float]:
    return [float(k == index) for k in range(size)]


def info_nce(q: Rows, k: Rows, extra: Rows, t: Row, **options: float) -> list[float]:
    u, v = [unit(x) for x in q], [unit(x) for x in [*k, *extra]]
    return [
        softmax_row([dot(a, b) / s for b in v], at(i, len(v)), scale=1 / s, **options)
        for i, (a, s) in enumerate(zip(u, t, strict=True))
    ]


def clip(x: Rows, y: Rows, c: Row, **options: float) -> list[float]:
    n = len(x)
    return [
        0.5
        * sum(
            softmax_row([c[i] * dot(a[i], b[j]) for j in range(n)], at(i, n), scale=c[i], **options)
            for a, b in ((x, y), (y, x))
        )
        for i in range(n)
    ]


def nt_xent(a: Rows, b: Rows, t: Row, **options: float) -> list[float]:
    """t: one temperature for each of the 2n anchors."""
    n, u = len(a), [unit(x) for x in [*a, *b]]
    rows = []
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        share = [float(k == (i + n) % (2 * n)) for k in others]
        logits = [dot(u[i], u[k]) / t[i] for k in others]
        rows.append(softmax_row(logits, share, scale=1 / t[i], **options))
    return rows


def dcl(a: Rows, b: Rows, t: Row, pull: Row) -> list[float]:
    n, u = len(a), [unit(x) for x in [*a, *b]]
    return [
        log_sum_exp([dot(u[i], u[k]) / t[i] for k in range(2 * n) if k % n != i % n])
        - pull[i] * dot(u[i], u[(i + n) % (2 * n)]) / t[i]
        for i in range(2 * n)
    ]


def siglip(x: Rows, y: Rows, c: Row, bias: float) -> list[float]:
    def softplus(v: float) -> float:
        return max(v, 0.0) + math.log1p(math.exp(-abs(v)))

    n = len(x)
    return [
        math.fsum(
            softplus((-1 if i == j else 1) * (c[i] * dot(x[i], y[j]) + bias)) for j in range(n)
        )
        for i in range(n)
    ]


def sup_con(
    z: Rows, labels: Sequence[int], t: Row, base: float | None, label_smoothing: float
) -> list[float]:
    n, rows = len(z), []
    for i in range(n):
        others = [k for k in range(n) if k != i]
        same = [float(labels[k] == labels[i] and labels[i] >= 0) for k in others]
        if not any(same):
            rows.append(0.0)
            continue
        share = [w / sum(same) for w in same]
        logits = [dot(z[i], z[k]) / t[i] for k in others]
        row = softmax_row(logits, share, scale=1 / t[i], label_smoothing=label_smoothing)
        rows.append(row * (1.0 if base is None else t[i] / base))
    return rows


def graph_info_nce(
    z: Rows,
    g: Rows,
    t: Row,
    *,
    normalize: bool,
    negatives: str,
    ids: Sequence[int] | None,
    label_smoothing: float,
    tau_plus: float,
) -> list[float]:
    """The rows of the mean; NaN for those without an edge."""
    n, u = len(z), [unit(x) for x in z] if normalize else z
    rows = []
    for i in range(n):
        degree = math.fsum(g[i][j] for j in range(n) if j != i)
        if degree == 0:
            rows.append(math.nan)
            continue
        kept = []
        for k in range(n):
            free = ids is None or ids[k] != ids[i]
            if k != i and (free or (negatives == "others" and g[i][k] != 0)):
                kept.append(k)
        logits = [dot(u[i], u[k]) / t[i] for k in kept]
        if negatives == "non_positive":
            pushed = [s for s, k in zip(logits, kept, strict=True) if g[i][k] == 0]
            pulled = math.fsum(g[i][k] * dot(u[i], u[k]) / t[i] for k in range(n) if k != i)
            rows.append(log_sum_exp(pushed) - pulled / degree)
            continue
        options = {"label_smoothing": label_smoothing, "tau_plus": tau_plus}
        share = [g[i][k] / degree for k in kept]
        rows.append(softmax_row(logits, share, scale=1 / t[i], **options))
    return rows


# ---- losses of columns ----


def centred(x: Row, weight: Row | None = None) -> list[float]:
    w = [1.0] * len(x) if weight is None else weight
    mean = dot(w, x) / math.fsum(w)
    return [v - mean for v in x]


def off_and_on(c: Callable[[int, int], float], d: int) -> tuple[float, float]:
    off = math.fsum(c(k, m) ** 2 for k in range(d) for m in range(d) if k != m)
    return off, math.fsum((1 - c(k, k)) ** 2 for k in range(d))


def barlow_twins(a: Rows, b: Rows, off_diagonal: float, eps: float) -> float:
    n, d = len(a), len(a[0])

    def standardised(z: Rows, k: int) -> list[float]:
        x = centred(column(z, k))
        return [v / math.sqrt(dot(x, x) / n + eps) for v in x]

    x, y = ([standardised(z, k) for k in range(d)] for z in (a, b))
    off, on = off_and_on(lambda k, m: dot(x[k], y[m]) / n, d)
    return on + off_diagonal * off


def vicreg(
    a: Rows, b: Rows, invariance: float, variance: float, covariance: float, eps: float
) -> float:
    n, d = len(a), len(a[0])
    loss = (
        invariance
        / (n * d)
        * math.fsum((a[i][k] - b[i][k]) ** 2 for i in range(n) for k in range(d))
    )
    for z in (a, b):
        x = [centred(column(z, k)) for k in range(d)]
        for k in range(d):
            spread = math.sqrt(dot(x[k], x[k]) / (n - 1) + eps)
            loss += variance / (2 * d) * max(0.0, 1 - spread)
        off, _ = off_and_on(lambda k, m, x=x: dot(x[k], x[m]) / (n - 1), d)
        loss += covariance / d * off
    return loss


def spectral_contrastive(a: Rows, b: Rows, mu: float) -> list[float]:
    def shortened(x: Row) -> list[float]:
        norm = math.sqrt(dot(x, x))
        return list(x) if norm < math.sqrt(mu) else [v * math.sqrt(mu) / norm for v in x]

    x, y, n = [shortened(r) for r in a], [shortened(r) for r in b], len(a)
    return [
        (
            -2 * dot(x[i], y[i])
            + math.fsum(dot(x[i], y[j]) ** 2 for j in range(n) if j != i) / (n - 1)
        )
        / mu
        for i in range(n)
    ]


def falcon(a: Rows, b: Rows, codes: Rows, beta: float, eps: float) -> float:
    n, f, c = len(a), len(a[0]), len(codes[0])
    tau = f / (math.sqrt(n) * math.log((1 - eps * (c - 1)) / eps))

    def logs(h: Row) -> list[float]:
        s = [math.sqrt(f / n) * dot(unit(h), column(codes, k)) / tau for k in range(c)]
        return [v - log_sum_exp(s) for v in s]

    p, q = [logs(h) for h in a], [logs(h) for h in b]
    loss = 0.0
    for x, y in ((p, q), (q, p)):
        mean = [math.fsum(math.exp(r[k]) for r in x) / n for k in range(c)]
        loss += math.fsum(m * math.log(c * m) for m in mean if m > 0)
        loss -= (
            beta
            / n
            * math.fsum(
                math.exp(s) * t
                for u, v in zip(x, y, strict=True)
                for s, t in zip(u, v, strict=True)
            )
        )
    return 0.5 * loss


# ---- losses on a graph, G as nested lists ----


def edges(g: Rows) -> list[tuple[int, int, float]]:
    return [(i, j, w) for i, row in enumerate(g) for j, w in enumerate(row) if w]


def square_distance(a: Row, b: Row) -> float:
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def dirichlet_energy(z: Rows, g: Rows) -> float:
    return 0.5 * math.fsum(w * square_distance(z[i], z[j]) for i, j, w in edges(g))


def graph_covariance(z: Rows, g: Rows, center: bool) -> list[list[float]]:
    n, d = len(z), len(z[0])
    degree = [math.fsum(row) for row in g]
    volume = math.fsum(degree)

    def entry(k: int, m: int) -> float:
        return math.fsum(
            (g[i][j] - (degree[i] * degree[j] / volume if center else 0.0)) * z[i][k] * z[j][m]
            for i in range(n)
            for j in range(n)
        )

    return [[entry(k, m) for m in range(d)] for k in range(d)]


def ls_simclr(z: Rows, g: Rows, center: bool) -> float:
    n = len(z)
    h = [[float(i == j) - 1 / n for j in range(n)] for i in range(n)]

    def target(i: int, j: int) -> float:
        if not center:
            return g[i][j]
        return math.fsum(h[i][a] * w * h[b][j] for a, b, w in edges(g))

    return math.fsum((dot(z[i], z[j]) - target(i, j)) ** 2 for i in range(n) for j in range(n))


def graph_spectral_contrastive(z: Rows, g: Rows) -> float:
    degree = [math.fsum(row) for row in g]
    volume = math.fsum(degree)
    pulled = math.fsum(w * dot(z[i], z[j]) for i, j, w in edges(g))
    pushed = math.fsum(
        degree[i] * degree[j] * dot(z[i], z[j]) ** 2 for i in range(len(z)) for j in range(len(z))
    )
    return -2 / volume * pulled + pushed / volume**2


def graph_barlow_twins(z: Rows, g: Rows, off_diagonal: float, center: bool, eps: float) -> float:
    d, degree = len(z[0]), [math.fsum(row) for row in g]
    columns = [column(z, k) for k in range(d)]
    x = [centred(c, degree) if center else c for c in columns]
    norm = [max(math.sqrt(dot(degree, [v * v for v in c])), eps) for c in x]
    listed = edges(g)

    def entry(k: int, m: int) -> float:
        return math.fsum(w * x[k][i] / norm[k] * x[m][j] / norm[m] for i, j, w in listed)

    off, on = off_and_on(entry, d)
    return on + off_diagonal * off


def graph_vicreg(
    z: Rows,
    g: Rows,
    *,
    variance: float,
    covariance: float,
    invariance: float,
    penalty: str,
    measure: str,
    eps: float,
) -> float:
    n, d = len(z), len(z[0])
    degree = [math.fsum(row) for row in g]
    weight = [1.0] * n if measure == "uniform" else degree
    share = n - 1 if measure == "uniform" else math.fsum(degree)
    x = [centred(column(z, k), weight) for k in range(d)]

    def entry(k: int, m: int) -> float:
        return math.fsum(w * a * b for w, a, b in zip(weight, x[k], x[m], strict=True)) / share

    penalties = {
        "hinge_std": lambda v: max(0.0, 1 - math.sqrt(v + eps)),
        "ls_std": lambda v: (1 - math.sqrt(v + eps)) ** 2,
        "hinge_var": lambda v: max(0.0, 1 - v),
        "ls_var": lambda v: (1 - v) ** 2,
    }
    distance = 2 * dirichlet_energy(z, g) / (n if measure == "uniform" else share)
    spread = math.fsum(penalties[penalty](entry(k, k)) for k in range(d))
    return variance * spread + covariance * off_and_on(entry, d)[0] + invariance * distance
