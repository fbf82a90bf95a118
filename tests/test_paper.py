"The profile `paper` is the paper's setting, key by key; what the paper does not say is left to the profile"

import numpy as np
import pytest
import yaml

from medsoft_nb.core.files import data_path
from medsoft_nb.lesions.soft import soften
from medsoft_nb.running.settings import ClassifySettings, FinetuneSettings, GenerateSettings

SAID = {
    'finetune': dict(
        base='stable-diffusion-v1-5/stable-diffusion-inpainting',
        encoder='biomedclip',
        full=True,  # all weights of the U-Net, not a LoRA
        controller='',  # a new MSC goes through all stages
        msc_layers=24,
        msc_heads=16,
        roi=512,
        batch_size=64,  # 16 on each of 4 GPUs
        learning_rate=1e-5,
        controller_rate=1e-4,
        msc_rate=1e-4,
        background_weight=1.0,  # a plain mean squared error
        semantic_weight=0.0,  # the MSC learns through the diffusion loss alone
        mask_profile='gaussian',
        ramp=[7.0, 7.0],
    ),
    'generate': dict(
        base='stable-diffusion-v1-5/stable-diffusion-inpainting',
        roi=512,
        mask_profile='gaussian',
        ramp=7.0,
        scheduler='ddim',
        steps=50,
        guidance_scale=7.5,
        interval=[0.0, 1.0],
    ),
    'classify': dict(
        backbone='resnet-18', image_size=256, optimizer='adam', schedule='constant', learning_rate=5e-5, batch_size=256
    ),
}
MODELS = dict(finetune=FinetuneSettings, generate=GenerateSettings, classify=ClassifySettings)


@pytest.mark.parametrize('step', SAID)
def test_the_profile_is_the_papers_setting(step):
    profile = yaml.safe_load(data_path('profiles/paper.yml').read_text())
    settings = MODELS[step](**profile[step], arms=profile['arms']).model_dump()
    assert {name: settings[name] for name in SAID[step]} == SAID[step]


def test_the_papers_blur_is_a_kernel_of_15_pixels_with_sigma_2_6():
    point = np.zeros((41, 41))
    point[20, 20] = 1
    soft = soften(point, SAID['generate']['ramp'], profile=SAID['generate']['mask_profile'])
    offsets = np.arange(-7, 8)
    kernel = np.exp(-0.5 * (offsets / 2.6) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    assert np.allclose(soft[13:28, 13:28], kernel, atol=1e-6)
    assert not np.delete(np.delete(soft, offsets + 20, 0), offsets + 20, 1).any()
