"""Bytes between chip and memory, read from the text of a compiled program."""

from jaxunet.preflight.hlo import COLLECTIVES, NO_TRAFFIC, Array, Computation, Instruction, computations, executed

_SLICES = ("slice", "dynamic-slice", "gather", "slice-start")


def memory_traffic(text: str) -> int:
    """Bytes between chip and memory: all that the instructions read and write there, padded to tiles.

    The compiler's own "bytes accessed" also counts arrays in the chip's fast memory. Of an array that an instruction
    only slices or gathers from, the slices count; of one that it updates in place, the update. Every other operand
    counts once and in full, even if it is read again (a convolution).
    """
    found = computations(text)[1]
    total = 0
    for _, computation in executed(text):
        for i in computation.values():
            if i.operation in NO_TRAFFIC:
                continue
            fused = next((found[name] for name in i.called("calls") if name in found), None)
            total += _written(i, computation, fused) + _read(i, computation, fused)
    return total


def _size(arrays: list[Array]) -> int:
    return sum(a.padded for a in arrays if not a.on_chip)


def _written(i: Instruction, computation: Computation, fused: Computation | None) -> int:
    if i.operation.removesuffix("-start") in COLLECTIVES and i.is_nested:
        return _size(i.arrays[len(i.arrays) // 2 :])
    if i.operation == "copy-start":  # result: target, source, a flag
        return _size(i.arrays[:1])
    if i.operation == "slice-start":  # result: source, target, a flag
        return _size(i.arrays[1:2])
    if fused is None:
        update = _updates(i, computation)
        return _size(i.arrays) if update is None else min(_size(i.arrays), update)
    root = next((r for r in fused.values() if r.is_root), None)
    parts = [fused.get(name) for name in root.operands] if root and root.operation == "tuple" else [root]
    if len(parts) != len(i.arrays):
        return _size(i.arrays)
    updates = [_updates(part, fused) if part else None for part in parts]
    return sum(_size([a]) if u is None else min(_size([a]), u) for a, u in zip(i.arrays, updates, strict=True))


def _updates(i: Instruction, computation: Computation) -> int | None:
    """Bytes that a dynamic-update-slice writes into its operand; None for other instructions."""
    if i.operation == "bitcast" and i.operands[0] in computation:
        return _updates(computation[i.operands[0]], computation)
    if i.operation != "dynamic-update-slice" or i.operands[1] not in computation:
        return None
    return sum(a.padded for a in computation[i.operands[1]].arrays)


def _read(i: Instruction, computation: Computation, fused: Computation | None) -> int:
    total = 0
    for position, name in enumerate(i.operands):
        if name not in computation:
            continue
        whole = _size(computation[name].arrays)
        if fused is None:
            total += min(whole, _used(i, position, whole))
            continue
        parameter = next(p for p in fused.values() if p.operation == "parameter" and p.rest.startswith(f"{position})"))
        total += min(whole, _needed(parameter.name, fused, whole))
    return total


def _needed(name: str, fused: Computation, whole: int) -> int:
    """Bytes that a fused computation reads of its parameter `name`, of `whole` bytes."""
    total = 0
    for user in fused.values():
        if name in user.operands:
            if user.operation == "bitcast":
                total += _needed(user.name, fused, whole)
            else:
                total += _used(user, user.operands.index(name), whole)
    return total


def _used(user: Instruction, position: int, whole: int) -> int:
    """Bytes that `user` reads of its operand at `position`."""
    if position == 0 and user.operation in _SLICES:
        return sum(a.padded for a in (user.arrays[1:2] if user.operation == "slice-start" else user.arrays))
    if position == 0 and user.operation == "dynamic-update-slice":
        return 0
    return whole
