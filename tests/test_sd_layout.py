"Stable Diffusion 1.5 inpainting's architecture and folder layout at a tiny size: loading, LoRA, sampling."

import json
from pathlib import Path
import numpy as np, pytest, torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from medsoft_nb.data.manifest import HEALTHY
from medsoft_nb.painting.generate import GenerateConfig, generate, with_lora
from medsoft_nb.models.lora import add_lora
from medsoft_nb.models.base import load_base
from medsoft_nb.models.tiny import tiny_tokenizer
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.training.stages import Training
from medsoft_nb.training.trainer import train

pytestmark = pytest.mark.trains


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "The blocks, head counts and scheduler of SD 1.5 inpainting, a thirtieth as wide, written by diffusers itself"
    d = tmp_path_factory.mktemp('sd')
    torch.manual_seed(0)
    tok = tiny_tokenizer(d / 'tok', 256)
    end = tok.eos_token_id
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=4,
        scaling_factor=0.18215,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=2,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    sched = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tok,
        unet=unet,
        scheduler=sched,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(d / 'hub')
    return d / 'hub'


def test_from_folder_to_synthetic_images(folder, tmp_path):
    assert json.loads((folder / 'unet' / 'config.json').read_text())['down_block_types'] == [
        'CrossAttnDownBlock2D'
    ] * 3 + ['DownBlock2D']
    m = make_benchmark('phantom-fracture', tmp_path / 'data', n_healthy=2, n_diseased=2, seed=0)
    config = Training(
        steps=2,
        batch_size=2,
        variants=1,
        rank=2,
        targets=('to_q', 'to_k', 'to_v', 'to_out.0'),
        roi=64,
        learning_rate=0.05,
    )
    lora = train(str(folder), m, tmp_path / "lora", config).lora
    pipe = MedSoftPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.prediction_type == 'epsilon' and pipe.vae.config.in_channels == 3
    well, diseased = m.where(label=HEALTHY), m.where(label='fracture')
    made = generate(
        pipe, well, diseased, tmp_path / 'out', ['fracture'], GenerateConfig(n_per_label=2, steps=2, roi=64), lora
    )
    assert len(made) == 2 and made.df.base.str.len().eq(16).all() and made.df.lora.str.len().eq(16).all()
    x = torch.randn(1, 9, 8, 8), torch.tensor([5]), torch.randn(1, 256, 32)
    assert not torch.allclose(with_lora(pipe, lora).unet(*x).sample, pipe.unet(*x).sample, atol=1e-6)


def test_plain_diffusers_takes_the_lora(folder, tmp_path):
    m = make_benchmark('phantom-fracture', tmp_path / 'data', n_healthy=2, n_diseased=2, seed=0)
    base = load_base(folder)
    config = Training(steps=1, batch_size=2, variants=1, rank=2, roi=64, learning_rate=0.05)
    made = train(base, m, tmp_path / 'lora', config)
    add_lora(base['unet'], config.rank, start=made.lora)
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder)
    pipe.load_lora_weights(tmp_path / 'lora')
    x = torch.randn(1, 9, 8, 8), torch.tensor([5]), torch.randn(1, 256, 32)
    with torch.no_grad():
        torch.testing.assert_close(pipe.unet(*x).sample, base['unet'](*x).sample, atol=1e-5, rtol=1e-4)


def test_pickled_weights_are_refused(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / 'm')
    w = next((tmp_path / 'm' / 'unet').glob('*.safetensors'))
    w.rename(w.with_suffix('.bin'))
    with pytest.raises(ValueError, match='pickled'):
        MedSoftPipeline.from_pretrained(tmp_path / 'm')
