"""Coefficients of erf in src/engines/cpu/math.ts: `pip install mpmath`, then `python scripts/remez.py`.

A weighted Remez exchange; coefficients are rounded to fp32 one after the other, from the constant up, and the rest is fitted again each time.
"""

from mpmath import cos, erf, erfc, floor, log, lu_solve, matrix, mp, mpf, nint, nstr, pi, sqrt

mp.prec = 160


def fp32(value):
    unit = mpf(2) ** (floor(log(abs(value), 2)) - 23)
    return nint(value / unit) * unit


def exchange(f, weight, low, high, powers, rounds=12, points=400):
    """Coefficients that minimize the largest |weight(x) (f(x) - sum c x^p)|."""
    size = len(powers)
    grid = [low + (high - low) * (1 - cos(pi * i / points)) / 2 for i in range(points + 1)]
    values = [(x, f(x), weight(x)) for x in grid]
    nodes = [(low + high) / 2 - (high - low) / 2 * cos(pi * i / size) for i in range(size + 1)]
    best = None
    for _ in range(rounds):
        system, right = matrix(size + 1, size + 1), matrix(size + 1, 1)
        for i, x in enumerate(nodes):
            w = weight(x)
            for j, power in enumerate(powers):
                system[i, j] = w * x**power
            system[i, size], right[i] = (-1) ** i, w * f(x)
        solution = lu_solve(system, right)
        coefficients = [solution[j] for j in range(size)]
        errors = [w * (v - sum(c * x**p for c, p in zip(coefficients, powers))) for x, v, w in values]
        worst = max(abs(e) for e in errors)
        if best is None or worst < best[0]:
            best = worst, coefficients
        extremes = []
        for i, e in enumerate(errors):
            if not extremes or (e >= 0) != (errors[extremes[-1]] >= 0):
                extremes.append(i)
            elif abs(e) > abs(errors[extremes[-1]]):
                extremes[-1] = i
        while len(extremes) > size + 1:
            extremes.pop(0 if abs(errors[extremes[0]]) < abs(errors[extremes[-1]]) else -1)
        if len(extremes) <= size or worst <= abs(solution[size]) * mpf("1.0005"):
            break
        nodes = [grid[i] for i in extremes]
    return best


def rounded(f, weight, low, high, degree):
    done = []
    while len(done) <= degree:
        rest = lambda x: f(x) - sum(c * x**p for p, c in enumerate(done))
        done.append(fp32(exchange(rest, weight, mpf(low), mpf(high), range(len(done), degree + 1))[1][0]))
    worst = max(abs(weight(x) * (f(x) - sum(c * x**p for p, c in enumerate(done)))) for x in [low + mpf(high - low) * i / 1000 for i in range(1001)])
    return done, worst


def tail(a):
    return (-log(erfc(a)) / a if a > mpf(2) ** -40 else 2 / sqrt(pi)) - 1


def effect(a):
    return erfc(a) * a / erf(a) if a > mpf(2) ** -40 else sqrt(pi) / 2


coefficients, worst = rounded(tail, effect, 0, 4, 8)
print(", ".join(nstr(c, 12) for c in coefficients))
print("relative error of erf: 2^" + nstr(log(worst, 2), 4))
