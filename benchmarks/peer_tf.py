"""TensorFlow's remote eager execution as a peer of `vs_peers.py`.

Per op: eager operations placed on a server in another process, asynchronous; whole step: a
`tf.function` placed there. The weights are torch's, so that the losses are comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np
from peer_programs import Refused, training

DEVICE = "/job:worker/replica:0/task:0/device:CPU:0"
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def library() -> Any:
    """Return TensorFlow with one thread, as all others have."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise Refused("TensorFlow is not installed (pip install tensorflow-cpu)") from error
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    return tf


def serve(cluster: str) -> None:
    """Be the server until stdin ends."""
    tf = library()
    spec = tf.train.ClusterSpec(json.loads(cluster))
    server = tf.distribute.Server(spec, job_name="worker", task_index=0)
    print(server.target, flush=True)
    sys.stdin.read()
    os._exit(0)  # a server of TensorFlow has no end of its own


class Tf:
    modes = ("per op", "whole step")

    def __init__(self, options: argparse.Namespace) -> None:
        self.tf = tf = library()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._server = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"worker": [address]})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._server.stdout is not None
        if not self._server.stdout.readline():
            raise Refused(f"its server ended with status {self._server.wait()}")
        tf.config.experimental_connect_to_host(address, job_name="worker")
        tf.config.experimental.set_synchronous_execution(False)
        with tf.device(DEVICE):
            self._a, self._b = tf.zeros((4, 4)), tf.ones((4, 4))
        self._sent: Any = None
        self._step_of: dict[str, Any] = {}  # by mode

    def ops(self, mode: str, count: int) -> float:
        x, b = self._a, self._b
        with self.tf.device(DEVICE):
            for _ in range(count):
                x = x + b
            return float(self.tf.reduce_sum(x))

    def read(self, mode: str, count: int) -> float:
        value = 0.0
        with self.tf.device(DEVICE):
            for _ in range(count):
                value = float(self.tf.reduce_sum(self._a + self._b))
        return value

    def up(self, mode: str, array: np.ndarray) -> float:
        self._sent = None
        with self.tf.device(DEVICE):
            self._sent = self.tf.constant(array)
            return float(self._sent[-1])

    def down(self, mode: str) -> np.ndarray:
        return self._sent.numpy()

    def prepare(self, row: str, mode: str) -> None:
        import torch

        tf = self.tf
        made = training(torch, row)
        with tf.device(DEVICE):
            layers = [
                (tf.Variable(at.weight.detach().numpy().T), tf.Variable(at.bias.detach().numpy()))
                for at in made.layers
            ]
            x, y = tf.constant(made.x.numpy()), tf.constant(made.y.numpy())
            weights = [each for layer in layers for each in layer]
            apply = self._sgd(weights) if row == "tiny" else self._adam(weights)

        def step() -> Any:
            with tf.device(DEVICE):
                with tf.GradientTape() as tape:
                    h = x
                    for weight, bias in layers[:-1]:
                        h = tf.nn.relu(tf.matmul(h, weight) + bias)
                    h = tf.matmul(h, layers[-1][0]) + layers[-1][1]
                    loss = tf.reduce_mean(
                        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=h)
                    )
                apply(tape.gradient(loss, weights))
                return loss

        self._step_of[mode] = step if mode == "per op" else tf.function(step)

    def _sgd(self, weights: list[Any]) -> Any:
        """Return what takes gradients and steps: one raw operation for each weight."""

        def apply(grads: list[Any]) -> None:
            for weight, grad in zip(weights, grads, strict=True):
                weight.assign_sub(0.01 * grad)

        return apply

    def _adam(self, weights: list[Any]) -> Any:
        """Return what takes gradients and steps: TensorFlow's fused Adam for each weight.

        Its epsilon stands before the correction, as in section 2 of Kingma and Ba 2015.
        """
        tf = self.tf
        first, second = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
        power1, power2 = tf.Variable(0.9), tf.Variable(0.999)

        def apply(grads: list[Any]) -> None:
            for weight, m, v, grad in zip(weights, first, second, grads, strict=True):
                tf.raw_ops.ResourceApplyAdam(
                    var=weight.handle, m=m.handle, v=v.handle, beta1_power=power1,
                    beta2_power=power2, lr=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, grad=grad,
                )  # fmt: skip
            power1.assign(power1 * 0.9)
            power2.assign(power2 * 0.999)

        return apply

    def steps(self, row: str, mode: str, count: int, each: bool) -> float:
        step, loss = self._step_of[mode], 0.0
        for _ in range(count):
            loss = step()
            if each:
                float(loss)
        return float(loss)

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)


if __name__ == "__main__":
    serve(sys.argv[1])
