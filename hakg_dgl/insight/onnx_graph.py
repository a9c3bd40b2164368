"""A model that ranks by vectors as an ONNX graph: users in, scores and the best items out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hakg_dgl.errors import ConfigError, MissingDependencyError

OPSET, IR_VERSION = 17, 8
"""Versions of the operators and of the format, which onnxruntime 1.12 and later read."""
LIST_LENGTH = 20
"""Items of a list where ``k`` is not given."""
_MOST_BYTES = 2**31 - 2**20
"""A file of protocol buffers holds no more than two gigabytes."""

Float32 = npt.NDArray[np.float32]


def ranking_graph(users: Float32, items: Float32, producer_version: str = "") -> Any:
    r"""The graph of :math:`s_{ui} = \langle x_u, y_i \rangle` and of the ``k`` items with the largest scores.

    Inputs are ``user`` (int64 ``[B]``, numbers of users), and two that may be left out: ``k`` (int64 ``[1]``, by
    default 20 or the number of items) and ``seen`` (bool ``[B, n_items]``, or of a shape that is broadcast to it: items
    that are not listed; none by default). Outputs are ``scores`` (float32 ``[B, n_items]``), and ``item`` and ``score``
    (int64 and float32 ``[B, k]``), best first; of equal scores the item with the lower number comes first. An item that
    is seen has the score minus infinity, where fewer than ``k`` others are left.

    Parameters
    ----------
    users, items
        The vectors ``[n_users, d]`` and ``[n_items, d]``.
    producer_version
        Version of this package, noted in the file.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ConfigError
        If the vectors take more than such a file holds, or there is no user or item.
    MissingDependencyError
        If onnx is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise MissingDependencyError(f"an ONNX file needs onnx ({error}): pip install 'hakg_dgl[onnx]'") from error
    if users.nbytes + items.nbytes > _MOST_BYTES:
        size = (users.nbytes + items.nbytes) / 2**30
        raise ConfigError(f"the vectors take {size:.1f} GiB, and an ONNX file holds 2; export tables instead (no --to)")
    if not len(users) or not len(items):
        raise ConfigError("an ONNX file needs at least one user and one item")
    n_items = len(items)
    constants: dict[str, npt.NDArray[Any]] = {
        "user_vectors": users,
        "item_vectors": np.ascontiguousarray(items.T),
        "nothing": np.array(-np.inf, dtype=np.float32),
        "k": np.array([min(LIST_LENGTH, n_items)], dtype=np.int64),
        "seen": np.zeros((1, 1), dtype=bool),
    }
    nodes = [
        helper.make_node("Gather", ["user_vectors", "user"], ["vectors"], axis=0),
        helper.make_node("MatMul", ["vectors", "item_vectors"], ["scores"]),
        helper.make_node("Where", ["seen", "nothing", "scores"], ["left"]),
        helper.make_node("TopK", ["left", "k"], ["score", "item"], axis=-1, largest=1, sorted=1),
    ]
    inputs = [
        helper.make_tensor_value_info("user", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("seen", TensorProto.BOOL, ["seen_users", "seen_items"]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", n_items]),
        helper.make_tensor_value_info("item", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", "length"]),
    ]
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "hakg_ranking", inputs, outputs, initial)
    model = helper.make_model(
        graph, producer_name="hakg_dgl", producer_version=producer_version, ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )  # fmt: skip
    checker.check_model(model)
    return model
