import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hakg_dgl.randomness import numpy_generator, stream_seed, torch_generator

quick = settings(max_examples=50, deadline=None, derandomize=True)
seeds, names = st.integers(0, 2**63 - 1), st.text(max_size=20)


def numpy_draw(seed, stream):
    return numpy_generator(seed, stream).integers(2**63, size=4).tolist()


def torch_draw(seed, stream):
    return torch.randint(2**62, (4,), generator=torch_generator(seed, stream)).tolist()


draws = pytest.mark.parametrize("draw", [numpy_draw, torch_draw], ids=["numpy", "torch"])


def test_seeds_of_streams_are_pinned():
    """Changing any of these changes every result that was ever published with a seed."""
    assert stream_seed(2020, "initialisation") == 7170454274150069449
    assert stream_seed(2020, "negatives") == 5238237675242926119
    assert stream_seed(0, "") == 8628662761858659700


def test_generators_start_from_the_seed_of_their_stream():
    assert torch_generator(2020, "split").initial_seed() == stream_seed(2020, "split")
    expected = np.random.default_rng(stream_seed(2020, "split")).integers(2**63, size=4).tolist()
    assert numpy_draw(2020, "split") == expected


@given(seeds, names)
@quick
def test_any_seed_and_name_give_a_valid_seed(seed, name):
    value = stream_seed(seed, name)
    assert 0 <= value < 2**63
    assert value == stream_seed(seed, name)
    numpy_generator(seed, name), torch_generator(seed, name)


@draws
def test_streams_differ_by_name_and_by_seed(draw):
    drawn = [draw(seed, name) for seed in (0, 1, 2020) for name in ("batches", "negatives", "dropout", "")]
    assert len(set(map(tuple, drawn))) == len(drawn)


def test_neighbouring_seeds_and_names_do_not_run_together():
    """A seed's digits and a name's are kept apart, and neither neighbour shares more than chance would."""
    assert stream_seed(1, "2") != stream_seed(12, "")
    assert stream_seed(1, "2:a") != stream_seed(2, "1:a")
    values = [stream_seed(seed, f"epoch {k}") for seed in range(20) for k in range(50)]
    assert len(set(values)) == len(values)
    differing = [(a ^ b).bit_count() for a, b in itertools.pairwise(values)]
    assert 31.5 - 1.0 < np.mean(differing) < 31.5 + 1.0  # 63 fair bits, 999 pairs: standard error 0.13


@draws
def test_a_stream_does_not_depend_on_what_was_made_or_drawn_before(draw):
    alone = draw(7, "dropout")
    draw(7, "batches")
    torch.manual_seed(123)
    torch.rand(5)
    np.random.seed(5)  # noqa: NPY002  the global state must have no influence
    assert draw(7, "dropout") == alone


def test_making_and_drawing_leaves_global_state_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    numpy_draw(3, "a")
    torch_draw(3, "a")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002


def test_generators_of_one_stream_are_independent_objects():
    first, second = torch_generator(1, "a"), torch_generator(1, "a")
    torch.rand(3, generator=first)
    assert torch.equal(torch.rand(3, generator=second), torch.rand(3, generator=torch_generator(1, "a")))


def test_torch_generators_are_made_on_the_given_device():
    assert torch_generator(1, "a", "cpu").device == torch.device("cpu")
    if torch.cuda.is_available():
        generator = torch_generator(1, "a", "cuda")
        assert torch.rand(3, generator=generator, device="cuda").device.type == "cuda"
