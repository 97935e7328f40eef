"""Makes saved/: files as earlier versions of the package saved them.

They are not made again when the package changes: tests/test_saved_files.py loads them.
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np

import tfembloss
from tfembloss import layers, losses, miners, text

FOLDER = pathlib.Path(__file__).parent / "saved"
TEXTS = ["a cat", "a dog", "the cat sat", "a dog ran to the cat"]
# As an earlier learn_vocabulary gave it for these texts: the saved weights are of its ids.
VOCABULARY = [*text.RESERVED, *"acdeghnorst", "cat", "dog", "the", "ran", "sat", "to"]
VOCABULARY += [f"##{x}" for x in "acdeghnorst"]


def _encoder(num_layers=0):
    return text.TextEncoder(
        len(VOCABULARY), dim=4, sequence_length=6, num_layers=num_layers, num_heads=2
    )


def _preprocessor():
    return text.TextPreprocessor(VOCABULARY, sequence_length=6)


def _pairs():
    return (np.array(TEXTS), np.array(TEXTS[::-1]))


def models():
    """Each kind of model with its loss, x and y."""
    near = miners.TripletMarginMiner(0.3, "semihard")
    rows = losses.MatryoshkaLoss(losses.TripletMarginLoss(0.2, miner=near), dims=[4, 2])
    pairs = losses.MultipleNegativesRankingLoss(exclude_equal_ids=True)
    classifier = tfembloss.EmbeddingClassifier(
        _encoder(), layers.CosineHead(4, sub_centers=2), _preprocessor(), num_sampled=3
    )
    of_pairs = tfembloss.EmbeddingClassifier(
        _encoder(), layers.PairHead(3, product=True), _preprocessor()
    )
    towers = {"query": _encoder(), "text": _encoder()}
    labels = np.array([0, 1, 0, 2])
    cross = text.TextPairPreprocessor(VOCABULARY, 4, 4)
    rows_model = tfembloss.EmbeddingModel(
        _encoder(num_layers=1), _preprocessor(), memory=layers.CrossBatchMemory(8)
    )
    one, two = np.ones([4, 6], "int32"), np.full([4, 6], 2)
    return {
        "labels": (rows_model, rows, np.array(TEXTS), labels),
        "pairs": (
            tfembloss.EmbeddingModel(_encoder(), _preprocessor(), mini_batch_size=2),
            pairs,
            _pairs(),
            labels,
        ),
        "classifier": (classifier, losses.ArcFaceLoss(0.3), np.array(TEXTS), labels),
        "pair_classifier": (of_pairs, losses.SoftmaxLoss(), _pairs(), labels),
        "dual": (
            tfembloss.DualEncoder(towers, initial_scale=3.0, initial_bias=-1.0),
            losses.SigLIPLoss(),
            {"query": one, "text": two},
            None,
        ),
        "cross": (
            tfembloss.CrossEncoder(
                text.TextEncoder(len(VOCABULARY), 4, 16, name="pair_encoder"), cross
            ),
            keras.losses.BinaryCrossentropy(from_logits=True),
            _pairs(),
            np.array([0.0, 1.0, 0.0, 1.0]),
        ),
        "contrastive_tension": (
            tfembloss.ContrastiveTensionModel(_encoder(), _preprocessor()),
            losses.ContrastiveTensionLossInBatchNegatives(),
            np.array(TEXTS),
            None,
        ),
        "denoising": (
            tfembloss.DenoisingAutoEncoder(_encoder(), _preprocessor()),
            losses.DenoisingAutoEncoderLoss(),
            np.array(TEXTS),
            None,
        ),
    }


def main():
    """Trains each model a step, saves it, and what it predicts."""
    sys.path.insert(0, str(FOLDER.parent.parent))
    import cases

    FOLDER.mkdir(exist_ok=True)
    outputs = {}
    for name, (model, loss, x, y) in models().items():
        keras.utils.set_random_seed(1)
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(optimizer, loss)
        model.fit(x, y, batch_size=4, verbose=0)
        outputs[name] = model.predict(x, verbose=0)
        outputs[f"{name}/loss"] = model.evaluate(x, y, batch_size=4, verbose=0)
        model.save(FOLDER / f"{name}.keras")
        if name == "pairs":
            model.save_weights(FOLDER / "pairs.weights.h5")
            with tempfile.TemporaryDirectory() as folder:
                tfembloss.export_encoder(model, folder + "/export")
                shutil.make_archive(FOLDER / "export", "zip", folder + "/export")
            outputs["export"] = model.predict(np.array(TEXTS), verbose=0)
    found = {}
    for name, case in cases.CASES.items():
        loss = case.make()
        if type(loss).__module__.startswith("tfembloss"):
            found[name] = keras.saving.serialize_keras_object(loss)
            y_true, y_pred = case.inputs(9)
            outputs[f"losses/{name}"] = float(loss(y_true, y_pred))
    for miner in (miners.BatchEasyHardMiner("all", "easy", None, (0.1, 0.9)),
                  miners.UniformHistogramMiner(5, 2, 2, seed=3),
                  miners.AngularMiner(25), miners.DistanceWeightedMiner(),
                  miners.HDCMiner(0.3), miners.PairMarginMiner(),
                  miners.BatchHardMiner(), miners.MultiSimilarityMiner(0.2)):  # fmt: skip
        found[type(miner).__name__] = keras.saving.serialize_keras_object(miner)
    (FOLDER / "objects.json").write_text(json.dumps(found, indent=1) + "\n")
    np.savez_compressed(FOLDER / "outputs.npz", **outputs)


if __name__ == "__main__":
    main()
