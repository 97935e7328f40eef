"""Dense layers with LoRA that is saved, and their merged kernels."""

import keras
import numpy as np
from keras import ops


class Dense(keras.layers.Dense):
    """A dense layer whose LoRA is saved, so that its training resumes.

    Keras saves the sum of kernel and LoRA, and loads it with both of LoRA's matrices zero:
    neither would ever have a gradient again.
    """

    def quantize(self, mode=None, type_check=True, config=None):
        """Quantizes the kernel, as in `keras.layers.Dense`, whose subclasses it refuses."""
        super().quantize(mode, type_check=False, config=config)

    def save_own_variables(self, store):
        """Saves the kernel, the bias, the two matrices of LoRA and their scale."""
        if not self.lora_enabled or self.quantization_mode is not None:
            super().save_own_variables(store)
            return
        store["0"] = self._kernel
        if self.use_bias:
            store["1"] = self.bias
        store["lora_kernel_a"] = self.lora_kernel_a
        store["lora_kernel_b"] = self.lora_kernel_b
        store["lora_scale"] = np.float32(self.lora_alpha / self.lora_rank)

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved, with or without LoRA here or there."""
        names = set(store.keys()) & {"lora_kernel_a", "lora_kernel_b", "lora_scale"}
        saved = [np.asarray(store[name]) for name in sorted(names)]
        if not saved and not self.lora_enabled:
            super().load_own_variables(store)
            return
        kernel = np.asarray(store["0"])
        if not saved:
            self.lora_kernel_b.assign(ops.zeros_like(self.lora_kernel_b))
        elif self.lora_enabled:
            a, b, scale = saved
            self.lora_kernel_a.assign(a)
            self.lora_kernel_b.assign(b * (scale / (self.lora_alpha / self.lora_rank)))
        else:
            a, b, scale = saved
            kernel = kernel + scale * a @ b
        self._kernel.assign(kernel)
        if self.use_bias:
            self.bias.assign(store["1"])


def merged_kernel(dense):
    """Returns a dense layer's kernel, with what LoRA adds if there is one."""
    if not dense.lora_enabled:
        return dense.kernel
    scale = dense.lora_alpha / dense.lora_rank
    # `dense.kernel` is of the dtype of computations, which may be half as precise.
    return dense._kernel + scale * ops.matmul(dense.lora_kernel_a, dense.lora_kernel_b)
