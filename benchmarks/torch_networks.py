"""The networks of the benchmark once more in PyTorch, layer by layer, with emjax's weights.

Module names are those of emjax, so that `load` puts every weight in its place; the benchmark checks
that both give the same output before it times them. Arrays are channels first here.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPSILON = 1e-3


def conv(a: int, b: int, size: int = 3, *, ndim: int = 2, **how: Any) -> nn.Module:
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
    if how.get("stride", 1) == 1:
        how["padding"] = "same"
    elif size == 3:
        return SameStrided(a, b, how)
    return kind(a, b, size, **how)


class SameStrided(nn.Conv2d):
    """A 3×3 convolution of stride 2, padded as XLA does: nothing before an even size."""

    def __init__(self, a: int, b: int, how: dict[str, Any]) -> None:
        super().__init__(a, b, 3, **how)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def norm(channels: int, groups: int = 8) -> nn.GroupNorm:
    most = min(groups, max(channels // 4, 1))
    most = max(g for g in range(1, most + 1) if channels % g == 0)
    return nn.GroupNorm(most, channels, eps=EPSILON)


def up(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Residual(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.first, self.second = conv(c, c), conv(c, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(x)))


class UNet(nn.Module):
    def __init__(self, inputs: int, outputs: int, widths: tuple, stem: int = 2) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.stem = stem
        self.enter = conv(inputs * stem**2, widths[0])
        self.down = nn.ModuleList([nn.ModuleList([Residual(c)]) for c in widths])
        self.shrink = nn.ModuleList([conv(a, b, 2, stride=2) for a, b in pairs])
        self.grow = nn.ModuleList([conv(b, a, 1) for a, b in pairs])
        self.merge = nn.ModuleList([conv(2 * a, a, 1) for a, _ in pairs])
        self.up = nn.ModuleList([nn.ModuleList([Residual(a)]) for a, _ in pairs])
        self.leave = conv(widths[0], outputs * stem**2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, skips = self.enter(unshuffle(x, self.stem)), []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(x)
                x = self.shrink[level - 1](x)
            for block in blocks:
                x = block(x)
        for level in reversed(range(len(self.up))):
            x = torch.cat([skips[level], up(self.grow[level](x))], 1)
            x = self.merge[level](x)
            for block in self.up[level]:
                x = block(x)
        return shuffle(self.leave(F.silu(x)), self.stem)


def unshuffle(x: torch.Tensor, f: int) -> torch.Tensor:
    """Channels in emjax's order: pixel of the window first, then channel."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // f, f, w // f, f).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, f * f * c, h // f, w // f)


def shuffle(x: torch.Tensor, f: int) -> torch.Tensor:
    b, c, h, w = x.shape
    x = x.reshape(b, f, f, c // f**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // f**2, h * f, w * f)


class Branch(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(a, b, stride=stride, bias=False), conv(b, b, bias=False)])
        self.norms = nn.ModuleList([norm(a), norm(b)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, normalise in zip(self.convs, self.norms, strict=True):
            x = layer(F.relu(normalise(x)))
        return x


class Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList([Branch(a, b, stride)])
        changed = stride != 1 or a != b
        self.shortcut = nn.ModuleList([conv(a, b, 1, stride=stride, bias=False)] if changed else [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = x
        for layer in self.shortcut:
            result = layer(result)
        return result + self.branches[0](x)


class ResUNet(nn.Module):
    def __init__(self, inputs: int, outputs: int, widths: tuple) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.enter = conv(inputs, widths[0])
        self.down = nn.ModuleList(
            [Block(widths[0], widths[0]), *(Block(a, b, 2) for a, b in pairs)]
        )
        self.up = nn.ModuleList([Block(a + b, a) for a, b in pairs])
        self.norm = norm(widths[0])
        self.leave = conv(widths[0], outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, skips = self.enter(x), []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()
        for block in reversed(self.up):
            x = block(torch.cat([up(x), skips.pop()], 1))
        return self.leave(F.relu(self.norm(x)))


class Separable(nn.Module):
    def __init__(self, a: int, b: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        how = {"stride": stride, "dilation": dilation, "groups": a, "bias": False}
        self.depthwise = conv(a, a, **how)
        self.between, self.pointwise = norm(a), conv(a, b, 1, bias=False)
        self.norm = norm(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.pointwise(self.between(self.depthwise(x))))


class XceptionBlock(nn.Module):
    def __init__(self, a: int, widths: tuple, stride: int, dilation: int, residual: bool) -> None:
        super().__init__()
        last = len(widths) - 1
        self.convs = nn.ModuleList(
            [
                Separable(p, q, stride=stride if i == last else 1, dilation=dilation)
                for i, (p, q) in enumerate(itertools.pairwise((a, *widths)))
            ]
        )
        self.residual, b = residual, widths[-1]
        changed = residual and (stride != 1 or a != b)
        parts = [conv(a, b, 1, stride=stride, bias=False), norm(b)] if changed else []
        self.shortcut = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = fine = x
        for layer in self.shortcut:
            result = layer(result)
        for layer in self.convs:
            fine = x
            x = layer(F.relu(x))
        return (result + x if self.residual else x), fine


class Pointwise(nn.Module):
    def __init__(self, a: int, b: int, *, normalise: bool = True) -> None:
        super().__init__()
        self.conv = conv(a, b, 1, bias=not normalise)
        self.norm = norm(b) if normalise else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class ASPP(nn.Module):
    def __init__(self, a: int, b: int, rates: tuple) -> None:
        super().__init__()
        self.near, self.image = Pointwise(a, b), Pointwise(a, b, normalise=False)
        self.far = nn.ModuleList([Separable(a, b, dilation=r) for r in rates])
        self.merge = Pointwise((2 + len(rates)) * b, b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.near(x), *(F.relu(far(x)) for far in self.far)]
        parts.append(self.image(x.mean((2, 3), keepdim=True)).expand_as(parts[0]))
        return self.merge(torch.cat(parts, 1))


class Stem(nn.Module):
    def __init__(self, inputs: int, widths: tuple) -> None:
        super().__init__()
        pairs = itertools.pairwise((inputs, *widths))
        self.convs = nn.ModuleList([conv(a, b, bias=False) for a, b in pairs])
        self.norms = nn.ModuleList([norm(b) for b in widths])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, normalise in zip(self.convs, self.norms, strict=True):
            x = F.relu(normalise(layer(x)))
        return x


class DeepLab(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, *, stem: tuple, entry: tuple, middle: int, exit: tuple,
        rates: tuple, context: int, skip: int,
    ) -> None:  # fmt: skip
        super().__init__()
        plan = [((w,) * 3, 2, 1) for w in entry] + [((entry[-1],) * 3, 1, 1)] * middle
        plan += [(exit[0], 1, 1), (exit[1], 1, 2)]
        self.stem, blocks, c = Stem(inputs, stem), [], stem[-1]
        for widths, stride, dilation in plan:
            blocks.append(XceptionBlock(c, widths, stride, dilation, dilation == 1))
            c = widths[-1]
        self.blocks = nn.ModuleList(blocks)
        self.aspp, self.skip = ASPP(c, context, rates), Pointwise(entry[0], skip)
        self.decoder = nn.ModuleList(
            [Separable(context + skip, context), Separable(context, context)]
        )
        self.leave = conv(context, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = fine = self.stem(x)
        for i, block in enumerate(self.blocks):
            x, before = block(x)
            fine = before if i == 0 else fine
        x = self.aspp(F.relu(x))
        x = F.interpolate(x, fine.shape[2:], mode="bilinear", align_corners=False)
        x = torch.cat([x, self.skip(F.relu(fine))], 1)
        for layer in self.decoder:
            x = F.relu(layer(x))
        return self.leave(x)


class NAFBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(c, eps=EPSILON) for _ in range(2))
        self.widen1, self.look = conv(c, 2 * c, 1), conv(2 * c, 2 * c, groups=2 * c)
        self.attend, self.narrow1 = conv(c, c, 1), conv(c, c, 1)
        self.widen2, self.narrow2 = conv(c, 2 * c, 1), conv(c, c, 1)
        self.beta, self.gamma = (nn.Parameter(torch.zeros(c)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = gate(self.look(self.widen1(over_channels(self.norm1, x))))
        y = y * self.attend(y.mean((2, 3), keepdim=True))
        x = x + self.narrow1(y) * self.beta[:, None, None]
        y = gate(self.widen2(over_channels(self.norm2, x)))
        return x + self.narrow2(y) * self.gamma[:, None, None]


def over_channels(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def gate(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, 1)
    return a * b


class NAFNet(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, width: int, *, encoder: tuple, middle: int, decoder: tuple
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(len(encoder) + 1)]

        def chain(c: int, n: int) -> nn.ModuleList:
            return nn.ModuleList([NAFBlock(c) for _ in range(n)])

        self.enter, self.leave = conv(inputs, width), conv(width, outputs)
        self.down = nn.ModuleList([chain(c, n) for c, n in zip(widths, encoder, strict=False)])
        self.shrink = nn.ModuleList([conv(c, 2 * c, 2, stride=2) for c in widths[:-1]])
        self.middle = chain(widths[-1], middle)
        self.grow = nn.ModuleList([conv(2 * c, 4 * c, 1, bias=False) for c in widths[:-1]])
        self.up = nn.ModuleList([chain(c, n) for c, n in zip(widths, decoder, strict=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, skips = self.enter(x), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks:
                y = block(y)
            skips.append(y)
            y = shrink(y)
        for block in self.middle:
            y = block(y)
        for level in reversed(range(len(self.up))):
            y = skips[level] + shuffle(self.grow[level](y), 2)
            for block in self.up[level]:
                y = block(y)
        return x + self.leave(y)


class Pair(nn.Module):
    def __init__(self, a: int, middle: int, b: int) -> None:
        super().__init__()
        self.first, self.second = conv(a, middle, ndim=3), conv(middle, b, ndim=3)
        self.norms = nn.ModuleList([norm(middle), norm(b)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norms[1](self.second(F.relu(self.norms[0](self.first(x))))))


class UNet3D(nn.Module):
    def __init__(self, inputs: int, outputs: int, widths: tuple) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [Pair(a, b // 2, b) for a, b in itertools.pairwise((inputs, *widths))]
        )
        steps = list(itertools.pairwise(widths))
        self.grow = nn.ModuleList([nn.ConvTranspose3d(b, b, 2, 2) for _, b in steps])
        self.up = nn.ModuleList([Pair(a + b, a, a) for a, b in steps])
        self.leave = conv(widths[0], outputs, 1, ndim=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, pair in enumerate(self.down):
            if level:
                skips.append(x)
                x = F.max_pool3d(x, 2)
            x = pair(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([skips[level], self.grow[level](x)], 1))
        return self.leave(x)


NETWORKS = {
    "unet": UNet,
    "resunet": ResUNet,
    "deeplab": DeepLab,
    "nafnet": NAFNet,
    "unet3d": UNet3D,
}


def load(module: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Put emjax's weights (paths with slashes) into a module of the same structure."""
    state = {}
    for path, value in weights.items():
        *parts, name = path.split("/")
        ndim = value.ndim - 2
        owner = module.get_submodule(".".join(parts))
        if name == "kernel" and isinstance(owner, nn.ConvTranspose3d):
            value = np.flip(value, axis=tuple(range(ndim)))
            value = np.moveaxis(value, (-2, -1), (0, 1))
        elif name == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        name = {"kernel": "weight", "scale": "weight"}.get(name, name)
        state[".".join([*parts, name])] = torch.from_numpy(np.array(value, np.float32))
    module.load_state_dict(state, strict=True)
