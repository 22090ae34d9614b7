"""Translates a JAX function to an ONNX graph, with only the operations that our networks use at inference.

Values that depend only on the weights, such as folded kernels, are computed here and stored as constants. Values that
depend on the image become nodes. The size of the first axis, the batch, stays open. Called by formats.py. Needs the
extra [onnx].
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from onnx import checker, helper, numpy_helper

from jaxunet.core.errors import UserError
from jaxunet.models.convolution import same_padding

OPSET = 17  # released in 2022; runtimes of the last years read it
_IR_VERSION = 8  # of the same release

# Operations with the same meaning, order of arguments and broadcasting in JAX and ONNX.
_SAME = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "logistic": "Sigmoid",
    "gt": "Greater", "log": "Log", "neg": "Neg",
}  # fmt: skip


def to_onnx(
    function: Callable[[jax.Array], dict[str, jax.Array]], shape: tuple[int, ...], dtype: Any, metadata: dict[str, Any]
) -> Any:
    """The graph of `function` as an `onnx.ModelProto`. Its input is `image`; its outputs have the names in the result.

    `function`: `[batch, *shape] -> {name: [batch, ...]}`, with the weights inside. `metadata`: JSON values.
    Raises UserError if an operation has no translation here.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    like = jax.ShapeDtypeStruct((batch, *shape), dtype)
    closed, results = jax.make_jaxpr(function, return_shape=True)(like)
    graph = _Graph()
    values = graph.translate(closed.jaxpr, closed.consts, ["image"])
    infos = []
    for (name, result), value in zip(sorted(results.items()), values, strict=True):  # as JAX sorts keys
        graph.nodes.append(helper.make_node("Identity", [graph.name(value)], [name]))
        infos.append(_info(name, result))
    proto = helper.make_graph(graph.nodes, "jaxunet", [_info("image", like)], infos, graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="jaxunet")
    helper.set_model_props(model, {k: json.dumps(value) for k, value in (metadata | {"opset": OPSET}).items()})
    checker.check_model(model, full_check=True)
    return model


def _no_translation(what: str) -> UserError:
    return UserError(f"This network cannot be written as ONNX: {what} has no translation. Use --format=stablehlo.")


def _info(name: str, array: Any) -> Any:
    """Name, type and shape of an input or output. The batch axis has a name instead of a size."""
    return helper.make_tensor_value_info(name, _onnx_type(array.dtype), ["batch", *array.shape[1:]])


def _onnx_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _sizes(shape: Sequence[Any]) -> np.ndarray:
    """A shape for ONNX's Reshape, with -1 for the batch."""
    return np.array([d if isinstance(d, int) else -1 for d in shape], np.int64)


class _Graph:
    """Nodes and constants so far. A value is a constant (an array) or a tensor of the graph (its name)."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0

    def _new_name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def name(self, value: Any) -> str:
        """The name of `value` in the graph. An array is added as a constant."""
        if isinstance(value, str):
            return value
        name = self._new_name()
        self.constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def add(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """Adds a node with one output and returns the name of the output."""
        output = self._new_name()
        self.nodes.append(helper.make_node(op, [self.name(x) for x in inputs], [output], **attributes))
        return output

    def translate(self, jaxpr: Any, consts: list[Any], arguments: list[Any]) -> list[Any]:
        """Adds the nodes of `jaxpr` for the inputs `arguments`, and returns the values of its outputs."""
        values = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:  # a literal or a variable
            return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else values[atom]

        for eqn in jaxpr.eqns:
            values |= dict(zip(eqn.outvars, self._step(eqn, [read(atom) for atom in eqn.invars]), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        """Values of the outputs of one equation."""
        name, params = eqn.primitive.name, eqn.params
        if name == "platform_index":  # of `jax.lax.platform_dependent`: ONNX gets the branch for CPUs
            return [np.int32(next(i for i, p in enumerate(params["platforms"]) if p is None or "cpu" in p))]
        if name == "cond":
            index, *inputs = inputs
            if isinstance(index, str):
                raise _no_translation("a branch that depends on the image")
            inner = params["branches"][int(index)]
        else:  # a call: jit, custom_jvp_call, custom_vjp_call
            inner = params.get("jaxpr", params.get("call_jaxpr"))
        if inner is not None and inner.jaxpr.debug_info.func_name == "depthwise":
            return [self._depthwise(eqn, *inputs)]
        if inner is not None:
            return self.translate(inner.jaxpr, inner.consts, inputs)
        if not any(isinstance(x, str) for x in inputs):
            outputs = eqn.primitive.bind(*inputs, **params)
            return [np.asarray(x) for x in (outputs if eqn.primitive.multiple_results else [outputs])]
        if name in _SAME:
            return [self.add(_SAME[name], *inputs)]
        translate = getattr(self, f"_{name}", None)
        if translate is None:
            raise _no_translation(f"the operation {name!r}")
        outputs = translate(eqn, *inputs)
        return outputs if eqn.primitive.multiple_results else [outputs]

    # ---- one method per operation: equation and inputs -> name of the output; of a split, the names ------------------

    def _convert_element_type(self, eqn: Any, x: str) -> str:
        return self.add("Cast", x, to=_onnx_type(eqn.params["new_dtype"]))

    def _reshape(self, eqn: Any, x: str) -> str:
        return self.add("Reshape", x, _sizes(eqn.outvars[0].aval.shape))

    def _broadcast_in_dim(self, eqn: Any, x: str) -> str:
        old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        at = dict(zip(eqn.params["broadcast_dimensions"], old, strict=True))
        aligned = tuple(at.get(axis, 1) for axis in range(len(new)))
        x = self.add("Reshape", x, _sizes(aligned))
        if aligned == new:
            return x
        if any(d != n and not isinstance(n, int) for d, n in zip(aligned, new, strict=True)):
            raise _no_translation(f"a broadcast from {old} to {new}")
        return self.add("Expand", x, np.array([n if isinstance(n, int) else 1 for n in new], np.int64))

    def _reduce_sum(self, eqn: Any, x: str) -> str:
        return self.add("ReduceSum", x, np.array(eqn.params["axes"], np.int64), keepdims=0)

    def _transpose(self, eqn: Any, x: str) -> str:
        return self.add("Transpose", x, perm=eqn.params["permutation"])

    def _concatenate(self, eqn: Any, *parts: Any) -> str:
        return self.add("Concat", *parts, axis=eqn.params["dimension"])

    def _stack(self, eqn: Any, *parts: Any) -> str:
        axis = eqn.params["axis"]
        shape = list(eqn.outvars[0].aval.shape)
        shape[axis] = 1
        return self.add("Concat", *(self.add("Reshape", x, _sizes(shape)) for x in parts), axis=axis)

    def _slice(self, eqn: Any, x: str) -> str:
        start, limit = eqn.params["start_indices"], eqn.params["limit_indices"]
        strides = eqn.params["strides"] or (1,) * len(start)
        shape = eqn.invars[0].aval.shape
        axes = [i for i in range(len(shape)) if (start[i], limit[i], strides[i]) != (0, shape[i], 1)]
        if not axes:  # OpenVINO refuses a Slice without axes
            return x
        bounds = ([values[i] for i in axes] for values in (start, limit, range(len(shape)), strides))
        return self.add("Slice", x, *(np.array(values, np.int64) for values in bounds))

    def _split(self, eqn: Any, x: str) -> list[str]:
        sizes = eqn.params["sizes"]
        if len(set(sizes)) > 1:
            raise _no_translation(f"a split into {sizes}")
        outputs = [self._new_name() for _ in sizes]
        self.nodes.append(helper.make_node("Split", [x], outputs, axis=eqn.params["axis"]))
        return outputs

    def _rev(self, eqn: Any, x: str) -> str:
        axes = eqn.params["dimensions"]
        bounds = ([value] * len(axes) for value in (-1, np.iinfo(np.int64).min))
        return self.add("Slice", x, *(np.array(v, np.int64) for v in (*bounds, axes, [-1] * len(axes))))

    def _pad(self, eqn: Any, x: str, value: np.ndarray) -> str:
        low, high, inside = zip(*eqn.params["padding_config"], strict=True)
        if any(inside):
            raise _no_translation("padding between pixels")
        return self.add("Pad", x, np.array([*low, *high], np.int64), value)

    def _dot_general(self, eqn: Any, x: str, kernel: Any) -> str:
        rank = len(eqn.invars[0].aval.shape)
        if eqn.params["dimension_numbers"] != (((rank - 1,), (0,)), ((), ())):
            raise _no_translation(f"the product {eqn.params['dimension_numbers']}")
        return self.add("MatMul", x, kernel)

    def _depthwise(self, eqn: Any, x: str, kernel: np.ndarray) -> str:
        """One node for what JAX computes as shifted products: runtimes have fast grouped convolutions."""
        size, stride = kernel.shape[0], eqn.invars[0].aval.shape[1] // eqn.outvars[0].aval.shape[1]
        return self._conv(x, kernel, same_padding(size, stride)[1:3], strides=[stride] * 2, group=kernel.shape[-1])

    def _conv_general_dilated(self, eqn: Any, x: str, kernel: Any) -> str:
        p = eqn.params
        layout = p["dimension_numbers"]
        layouts = (layout.lhs_spec, layout.rhs_spec, layout.out_spec)
        if layouts != ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)) or set(p["lhs_dilation"]) != {1}:
            raise _no_translation(f"a convolution with {layout}, dilated by {p['lhs_dilation']}")
        more = {"strides": p["window_strides"], "dilations": p["rhs_dilation"], "group": p["feature_group_count"]}
        return self._conv(x, kernel, p["padding"], **more)

    def _conv(self, x: str, kernel: np.ndarray, padding: Sequence[tuple[int, int]], **attributes: Any) -> str:
        """Channels are last in JAX and first in ONNX."""
        (top, bottom), (left, right) = padding
        x = self.add("Transpose", x, perm=[0, 3, 1, 2])
        y = self.add("Conv", x, kernel.transpose(3, 2, 0, 1), pads=[top, left, bottom, right], **attributes)
        return self.add("Transpose", y, perm=[0, 2, 3, 1])
