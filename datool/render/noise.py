"""Noise that is a function of place: a hash of int32, value noise, and cobbles."""

from __future__ import annotations

import torch
from torch import Tensor

PRIMES = (374761393, 668265263, 1274126177)


def hash_bits(v: Tensor) -> Tensor:
    """Return mixed bits of int32, wrapping; the highest are the best."""
    v = (v ^ (v >> 15)) * 739982445
    return (v ^ (v >> 12)) * 695872825


def hash_unit(v: Tensor) -> Tensor:
    """Return floats in [0, 1) of int32, wrapping."""
    return ((hash_bits(v) >> 8) & 0xFFFF).float() * (1 / 65536)


def lattice_noise(at_b3n: Tensor, salt_bn: Tensor) -> Tensor:
    """Return (B, N) value noise in [0, 1]: a hash at the eight corners of the unit cell, smoothly interpolated."""
    low = at_b3n.floor()
    part = at_b3n - low
    part = part * part * (3 - 2 * part)
    cell = low.to(torch.int32)
    steps = [[cell[:, i] * prime, cell[:, i] * prime + prime] for i, prime in enumerate(PRIMES)]
    corners = torch.stack([steps[0][i] ^ steps[1][j] ^ steps[2][k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    value = hash_unit(corners + salt_bn)
    for axis in (0, 1, 2):
        value = torch.lerp(value[: len(value) // 2], value[len(value) // 2 :], part[:, axis])
    return value[0]


def cobbles(u: Tensor, v: Tensor, salt: Tensor) -> tuple[Tensor, Tensor]:
    """Return, at points of a plane, the tone in [0, 1) of the stone there and how deep inside it the point lies.

    One stone a unit cell, about a jittered centre; 0 deep is the joint.

    Source: Worley 1996, "A cellular texture basis function".
    """
    low_u, low_v = u.floor(), v.floor()
    nearest, second = torch.full_like(u, 9.0), torch.full_like(u, 9.0)
    tone = torch.zeros_like(u)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            bits = hash_bits((low_u.int() + i) * PRIMES[0] ^ (low_v.int() + j) * PRIMES[2] ^ salt)
            x = low_u + i + 0.2 + 0.6 * ((bits >> 8) & 255).float() / 255 - u
            y = low_v + j + 0.2 + 0.6 * ((bits >> 16) & 255).float() / 255 - v
            away = x * x + y * y
            closer = away < nearest
            second = torch.where(closer, nearest, torch.minimum(second, away))
            tone = torch.where(closer, ((bits >> 20) & 255).float() / 256, tone)
            nearest = torch.minimum(nearest, away)
    return tone, second.sqrt() - nearest.sqrt()
