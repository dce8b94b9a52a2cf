"""Make unmodified Coach 1.0.1 run on a current TensorFlow. Import this before any `rl_coach`.

Coach was written for TensorFlow 1.14. TensorFlow 2.21 still holds that interface as
``tensorflow.compat.v1``; this module puts it where Coach looks for it, and fills the few
names that are gone. Nothing else in the project may know.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

# Read by TensorFlow while it is imported. With the first set and tf-keras not installed,
# TensorFlow loads no Keras at all, which halves the time its import takes.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow uses oneDNN by itself only where the processor has AVX-512 for networks. With AVX2
# alone the update is 1.7 times faster with it, too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Under bf16 the probabilities themselves would be rounded, and sampling from them fails.
os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_REMOVE", "Softmax")
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=SyntaxWarning, module=r"rl_coach.*")
# "tf.layers.dense is deprecated" and the like, each time Coach builds a network.
warnings.filterwarnings("ignore", category=UserWarning, module=r"tensorflow\.python\.keras.*")
warnings.filterwarnings("ignore", message=".*pkg_resources is deprecated.*")


class _Anything:
    """Stands in for a name nobody needs: its attributes and what it returns are the same again."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


def _stand_in(name: str) -> None:
    """Register an empty module: Coach imports names of it at the top of modules, PPO uses none."""
    if name not in sys.modules:
        sys.modules[name] = _StandIn(name)


class _DataFrame:
    """Becomes pandas' class of that name when Coach's logger first makes one."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("pandas").DataFrame(*args, **kwargs)


class _LateModule(ModuleType):
    """Imports the module of its name when something of it is first used."""

    DataFrame = _DataFrame

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def _import_coach() -> None:
    """Import Coach's agent without the slow modules that it imports and PPO never calls."""
    slow = [name for name in ("pandas", "scipy.signal", "redis") if name not in sys.modules]
    sys.modules.update({name: _LateModule(name) for name in slow})
    try:
        import rl_coach.agents.clipped_ppo_agent
        import rl_coach.level_manager  # noqa: F401
    finally:
        for name in slow:
            del sys.modules[name]


def _keep_locks_in_this_process() -> None:
    """Coach starts two server processes for the locks of an agent's memory; threads are enough."""
    import rl_coach.utils

    rl_coach.utils.Manager = lambda: threading


def _install() -> Any:
    import tensorflow.compat.v1 as tf
    from tensorflow.python.framework.ops import get_name_scope
    from tensorflow.python.keras.legacy_tf_layers import convolutional, core
    from tensorflow.python.ops.losses import losses_impl  # noqa: F401  (fills tf.losses)
    from tensorflow.python.util import deprecation

    deprecation._PRINT_DEPRECATION_WARNINGS = False
    tf.disable_v2_behavior()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # For good: Coach imports tensorflow inside functions too.
    sys.modules["tensorflow"] = tf
    tf.layers = SimpleNamespace(
        conv2d=convolutional.conv2d,
        dense=core.dense,
        flatten=core.flatten,
        dropout=core.dropout,
        Dense=core.Dense,
        Conv2D=convolutional.Conv2D,
    )
    tf.contrib = SimpleNamespace(
        layers=SimpleNamespace(
            xavier_initializer=tf.glorot_uniform_initializer, flatten=core.flatten
        ),
        distributions=tf.distributions,
        framework=SimpleNamespace(
            load_checkpoint=tf.train.load_checkpoint, get_name_scope=get_name_scope
        ),
    )
    for name in ("annoy", "pygame", "pygame.locals"):
        _stand_in(name)
    _import_coach()
    _keep_locks_in_this_process()
    return tf


tf = _install()
"""TensorFlow's version 1 interface."""
