import numpy as np
import pytest

pytest.importorskip("sklearn", reason='scikit-learn is missing: pip install ".[examples]"')

import image_labels
import image_text
from goldens import plain_kernels  # noqa: F401


def test_two_digits_are_held_out():
    images, digits = image_labels.read_digits()
    seen, (test_images, test_digits) = image_labels.split(images, digits, (4, 9))
    assert set(test_digits) == {4, 9} and set(seen[1]) == set(range(8))
    assert len(seen[0]) + len(test_images) == len(images) == 1797
    more, labels = image_labels.turned(*seen)
    assert len(more) == 4 * len(seen[0]) and set(labels) == set(range(32))
    np.testing.assert_array_equal(more[: len(seen[0])], seen[0])


def test_captions_of_held_out_wordings_are_new():
    seen, unseen = (
        {image_text.caption(w, digit) for w in wordings for digit in range(10)}
        for wordings in (image_text.WORDINGS, image_text.HELD_OUT_WORDINGS)
    )
    assert len(seen) == 80 and len(unseen) == 40 and not seen & unseen
    train, test = image_text.split(*image_labels.read_digits())
    assert len(train[0]) + len(test[0]) == 1797
    _, captions, digits = image_text.every_pair(train[0][:5], train[1][:5])
    assert len(captions) == len(digits) == 40
    assert captions[0] == image_text.caption(image_text.WORDINGS[0], digits[0])


def test_a_little_training_measures():
    (images, labels), (test_images, digits) = image_labels.split(
        *image_labels.read_digits(), (8, 9)
    )
    import tfembloss

    loss, head = image_labels.losses(8)["CosFace"]
    model = tfembloss.EmbeddingClassifier(image_labels.image_encoder(8, 4), head)
    evaluator = tfembloss.evaluation.LabelEvaluator(
        test_images, digits, list(image_labels.COLUMNS)
    )
    image_labels.train(model, loss, images[:256], labels[:256], 1, evaluator)
    found = evaluator.evaluate(model)
    assert 0 < found["map@r"] < found["precision@1"] <= 1
