"The background keeps its bits: random masks, depths and blends."

import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from medsoft_nb.painting.blend import BLENDS, composite
from medsoft_nb.lesions.shapes import random_mask
from medsoft_nb.lesions.soft import soften
from medsoft_nb.models.tiny import tiny_components
from medsoft_nb.painting.pipeline import MedSoftPipeline

pytestmark = pytest.mark.trains
DTYPES = [np.uint8, np.uint16, np.float32]
quiet = dict(deadline=None, suppress_health_check=list(HealthCheck))


def image(dtype, seed, shape):
    r = np.random.default_rng(seed)
    return (
        r.normal(0, 1000, shape).astype(dtype)
        if dtype == np.float32
        else r.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
    )


@settings(max_examples=150, **quiet)
@given(
    soft=hnp.arrays(np.float32, (12, 17), elements=st.one_of(st.just(0.0), st.floats(0, 1, width=32))),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 999),
    far=st.floats(-1e6, 1e6),
)
def test_composite_keeps_every_bit_outside(soft, dtype, seed, far):
    x = image(dtype, seed, soft.shape)
    y = composite(x, np.full(soft.shape, far), soft)
    assert y.dtype == x.dtype and y[soft == 0].tobytes() == x[soft == 0].tobytes()
    if dtype != np.float32 and far < 0:
        assert (y[soft == 1] == 0).all()


@pytest.fixture(scope='module')
def pipe():
    p = MedSoftPipeline(**tiny_components(0))
    p.set_progress_bar_config(disable=True)
    return p


@settings(max_examples=12, **quiet)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(DTYPES),
    blend=st.sampled_from(BLENDS),
    ramp=st.floats(0, 12),
    kind=st.sampled_from(['blob', 'ellipse', 'box']),
    shape=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    roi=st.sampled_from([None, 16, 32]),
)
def test_pipeline_keeps_every_bit_outside(pipe, seed, dtype, blend, ramp, kind, shape, roi):
    x, soft = image(dtype, seed, shape), soften(random_mask(shape, seed, kind, (2, 8)), ramp)
    before = x.copy()
    y = pipe(
        'lytic', x, soft, num_inference_steps=1, blend=blend, roi=roi, generator=torch.Generator().manual_seed(seed)
    ).images[0]
    assert y.shape == x.shape and y.dtype == x.dtype
    assert y[soft == 0].tobytes() == x[soft == 0].tobytes() and x.tobytes() == before.tobytes()
    assert (y != x).any()
