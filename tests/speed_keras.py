"""The graph of SPEED's Keras source: ``python -m tests.speed_keras FOLDER`` saves one with random weights.

In every form that Keras has: speed.h5, speed.keras, speed.weights.h5, an optimizer's state beside the weights.
speed.npz holds an image ("x") and Keras's own answer ("y"), channels last. Keras runs on PyTorch.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported

import keras
import numpy as np
from keras import layers

BLOCKS = {1: 64, 2: 128, 3: 128, 4: 256, 5: 256, 6: 512, 7: 512, 12: 1024, 13: 256}
STRIDED = (2, 4, 6, 12)
BINS = (2, 4, 6, 8)


def normalised(x: Any, name: str) -> Any:
    return layers.ReLU(6.0)(layers.BatchNormalization(name=f"{name}_bn")(x))


def block(x: Any, filters: int, number: int) -> Any:
    if number in STRIDED:
        x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    padding, strides = ("valid", 2) if number in STRIDED else ("same", 1)
    x = layers.DepthwiseConv2D(3, strides, padding, use_bias=False, name=f"conv_dw_{number}")(x)
    x = normalised(x, f"conv_dw_{number}")
    return normalised(layers.Conv2D(filters, 1, use_bias=False, name=f"conv_pw_{number}")(x), f"conv_pw_{number}")


def pooled(x: Any, size: int) -> Any:
    window = (x.shape[1] // size, x.shape[2] // size)
    return layers.AveragePooling2D(window, window)(x)


def dspp(x: Any) -> Any:
    levels = [layers.SeparableConv2D(128, 3, padding="same")(pooled(x, size)) for size in BINS]
    return layers.Concatenate()([x, *(layers.Resizing(x.shape[1], x.shape[2])(level) for level in levels)])


def separable(x: Any, filters: int, name: str) -> Any:
    return layers.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=name)(x)


def mdspp(x: Any, filters: int, name: str) -> Any:
    levels = [separable(pooled(x, size), filters // 4, f"{name}_upconv_1_{size}") for size in BINS]
    maps = [layers.Resizing(x.shape[1], x.shape[2])(level) for level in levels]
    pairs = []
    for part, start in (("odd", 0), ("even", 1)):  # bins 2 and 6, bins 4 and 8
        y = layers.ReLU()(layers.Concatenate()(maps[start::2]))
        pairs.append(layers.ReLU()(separable(y, filters // 2, f"{name}_upconv_2_{part}")))
    return layers.Concatenate()([*pairs, x])


def up(x: Any, filters: int, name: str, skip: Any, mixed: int, upconv: str) -> Any:
    x = layers.Conv2DTranspose(filters, 3, 2, padding="same", use_bias=False, name=f"{name}_{upconv}")(x)
    x = layers.ReLU()(layers.Concatenate()([x, skip]))
    return layers.ReLU()(separable(x, mixed, f"{name}_sep_conv"))


def speed() -> Any:
    image = layers.Input((192, 256, 3))
    x = layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="conv1")(image)
    x = normalised(x, "conv1")
    for number, filters in BLOCKS.items():
        x = block(x, filters, number)
        if number == 7:
            x = dspp(x)
    skips = [keras.Model(image, x).get_layer(f"conv_dw_{number}").output for number in (6, 4, 2)]
    x = layers.Conv2D(256, 1, name="conv_Init_decoder")(x)
    x = up(x, 128, "up1", skips[0], 64, "upconv")
    x = up(mdspp(x, 64, "up2"), 64, "up2", skips[1], 32, "upconv_final")
    x = up(mdspp(x, 32, "up3"), 32, "up3", skips[2], 16, "upconv_final")
    return keras.Model(image, layers.Conv2D(1, 3, padding="same", name="convDepthF")(x))


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    model, generator = speed(), np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:  # norms and biases would be ones and zeros
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
        else:  # Keras's own would hardly let the image through to the result
            weight.assign(3 * weight)
    x = generator.standard_normal((1, 192, 256, 3), np.float32)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(folder / "speed.h5")
    model.save(folder / "speed.keras")
    model.save_weights(folder / "speed.weights.h5")
    np.savez(folder / "speed.npz", x=x, y=model.predict(x, verbose=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
