"""Speed and memory of loading, every training stage and sampling at the size of Stable Diffusion 1.5 with CLIP ViT-L/14, with random weights.

    python benchmarks/scale.py --size sd15 --device cuda --out runs/scale.json
    python benchmarks/scale.py --size tiny --device cpu

The folder that it writes has the layout of a Hub download, so the real loading code runs. Weights are random: pictures mean nothing, times and memory do.
"""

import argparse, gc, json, tempfile, time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from medsoft_nb.core.files import write_json
from medsoft_nb.core.runs import packages
from medsoft_nb.data.manifest import HEALTHY
from medsoft_nb.models.base import load_base, make_scheduler, save_base
from medsoft_nb.models.controller import Controller
from medsoft_nb.models.encoders import load_encoder
from medsoft_nb.models.tiny import tiny_tokenizer
from medsoft_nb.painting.generate import GenerateConfig, generate
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.training.cache import training_data
from medsoft_nb.training.stages import Training
from medsoft_nb.training.trainer import train

SIZES = {
    'sd15': dict(
        vae=dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2),
        unet=dict(sample_size=64, cross_attention_dim=768),
        text=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
        vision=dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        ),
        projection=768,
        msc=dict(layers=24, heads=16),
        image=512,
    ),
    'tiny': dict(
        vae=dict(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=8),
        unet=dict(
            sample_size=8,
            cross_attention_dim=32,
            block_out_channels=(16, 32, 32, 32),
            attention_head_dim=2,
            norm_num_groups=8,
        ),
        text=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2),
        vision=dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        projection=24,
        msc=dict(layers=1, heads=2),
        image=64,
    ),
}


def write_models(size: dict, folder: Path) -> None:
    "An inpainting base and a CLIP of random weights, as the Hub has them"
    torch.manual_seed(0)
    tok = tiny_tokenizer(folder / 'tok', 77)
    end = tok.eos_token_id
    words = dict(
        vocab_size=len(tok), max_position_embeddings=77, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end
    )
    vae = AutoencoderKL(
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        latent_channels=4,
        scaling_factor=0.18215,
        **size['vae'],
    )
    base = dict(
        vae=vae,
        unet=UNet2DConditionModel(in_channels=9, **size['unet']),
        text_encoder=CLIPTextModel(CLIPTextConfig(**words, **size['text'])),
        tokenizer=tok,
        scheduler=make_scheduler(),
    )
    save_base(base, folder / 'base')
    CLIPModel(
        CLIPConfig(
            text_config=words | size['text'] | dict(projection_dim=size['projection']),
            vision_config=size['vision'] | dict(projection_dim=size['projection']),
            projection_dim=size['projection'],
        )
    ).half().save_pretrained(folder / 'encoder')
    tok.save_pretrained(folder / 'encoder')
    write_json(
        folder / 'encoder/preprocessor_config.json', dict(image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28])
    )


class Meter:
    "Wall time and peak memory of a block"

    def __init__(self, device):
        self.cuda = torch.device(device).type == 'cuda'

    def __enter__(self):
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        if self.cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.start
        self.gib = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else None


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--size', choices=list(SIZES), default='tiny')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--steps', type=int, default=4, help='of each training')
    parser.add_argument('--sampling-steps', type=int, default=20, help='of each painting')
    parser.add_argument('--out', type=Path)
    a = parser.parse_args(argv)
    size = SIZES[a.size]
    rows = []
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        write_models(size, d)
        m = make_benchmark('phantom-tumour', d / 'data', n_healthy=4, n_diseased=6, size=max(size['image'], 128))
        m.df['prompt'] = m.df.label + ' vertebra'  # the tokenizer spells, and 77 tokens hold few words
        with Meter(a.device) as meter:
            load_base(d / 'base', device=a.device)
        rows.append(dict(job='load', seconds=meter.seconds, gib=meter.gib))
        for stage in ('lora', '1a', '1b', '2a', '2b'):
            base = load_base(d / 'base', device=a.device)
            controller = (
                None
                if stage == 'lora'
                else Controller.new(load_encoder(d / 'encoder', device=a.device), base['unet'], **size['msc']).to(
                    a.device
                )
            )
            settings = dict(stage=stage, batch_size=a.batch, roi=size['image'], variants=1, save_every=10**9)
            kept = d / f'kept-{stage}'
            with training_data(base, controller, m, Training(steps=a.steps, **settings), kept) as data:
                for step in data.steps:
                    data.encode(step)
            train(base, m, d / f'{stage}-warm', Training(steps=1, **settings), controller, cache=kept)
            base = load_base(d / 'base', device=a.device)
            with Meter(a.device) as meter:
                train(base, m, d / stage, Training(steps=a.steps, **settings), controller, cache=kept)
            rows.append(
                dict(
                    job=f'stage {stage}',
                    seconds=meter.seconds,
                    images_per_s=a.batch * a.steps / meter.seconds,
                    gib=meter.gib,
                )
            )
            del base
        dtype = torch.bfloat16 if a.device != 'cpu' else torch.float32
        pipe = MedSoftPipeline.from_pretrained(d / 'base', dtype=dtype).to(a.device)
        pipe.set_progress_bar_config(disable=True)
        for name, folder in (('sampling', None), ('sampling with MSC', d / '2b/controller')):
            config = GenerateConfig(n_per_label=a.batch, steps=a.sampling_steps, roi=size['image'], batch_size=a.batch)
            generate(
                pipe,
                m.where(label=HEALTHY),
                m.where(label=m.diseases),
                d / f'{name}-warm',
                ['lytic'],
                config,
                d / 'lora/pytorch_lora_weights.safetensors',
                folder,
            )
            with Meter(a.device) as meter:
                generate(
                    pipe,
                    m.where(label=HEALTHY),
                    m.where(label=m.diseases),
                    d / name,
                    ['lytic'],
                    config,
                    d / 'lora/pytorch_lora_weights.safetensors',
                    folder,
                )
            rows.append(dict(job=name, seconds=meter.seconds, images_per_s=a.batch / meter.seconds, gib=meter.gib))
    report = dict(
        size=a.size,
        device=torch.cuda.get_device_name() if a.device != 'cpu' else 'cpu',
        batch=a.batch,
        steps=a.steps,
        sampling_steps=a.sampling_steps,
        packages=packages(),
        rows=rows,
    )
    print(json.dumps(report, indent=1))
    if a.out:
        write_json(a.out, report)
    return report


if __name__ == '__main__':
    main()
