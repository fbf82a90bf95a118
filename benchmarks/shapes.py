"""Seconds and peak memory of the paper's models on the CPU, with their exact shapes and random weights.

    python benchmarks/shapes.py --shape sd15
    python benchmarks/shapes.py --shape sd2 --jobs load,lora,paint --dtype bfloat16

The base is written in the layout of the Hub and loaded by `load_base`; the encoder has BiomedCLIP's shape: a ViT-B/16 at 224 pixels and a BERT of 12 layers. Every job is a process of its own, so that its peak memory is its own. Weights are random: pictures mean nothing, times and memory do.
"""

import argparse, json, resource, subprocess, sys, tempfile, time
from pathlib import Path
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, ViTConfig, ViTModel
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.models.base import load_base, make_scheduler, save_base
from medsoft_nb.models.controller import Controller
from medsoft_nb.models.encoders import OpenClipEncoder
from medsoft_nb.models.tiny import tiny_tokenizer
from medsoft_nb.painting.generate import GenerateConfig, generate
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.training.stages import STAGES, Training
from medsoft_nb.training.trainer import train

TEXT = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
WIDE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act='gelu')
SHAPES = {
    'sd15': dict(
        unet=dict(cross_attention_dim=768),
        vae=(128, 256, 512, 512),
        text=TEXT,
        encoder=dict(layers=12, width=768, image=224, pooled=512, words=30522),
        msc=dict(layers=24, heads=16),
        prediction='epsilon',
    ),
    'tiny': dict(
        unet=dict(cross_attention_dim=32, block_out_channels=(32, 32, 32, 32), attention_head_dim=2),
        vae=(32, 32, 32, 32),
        text=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2),
        encoder=dict(layers=1, width=48, image=64, pooled=16, words=64),
        msc=dict(layers=1, heads=2),
        prediction='v_prediction',
    ),
}
SHAPES['sd2'] = SHAPES['sd15'] | dict(
    unet=dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
    text=WIDE,
    prediction='v_prediction',
)
JOBS = ('load', *STAGES, 'paint')


class Pair(torch.nn.Module):
    "An image-text model of BiomedCLIP's parts, with the names that open_clip gives them"

    def __init__(self, layers, width, image, pooled, words):
        super().__init__()
        common = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=4 * width)
        self.visual = torch.nn.Module()
        self.visual.trunk = ViTModel(ViTConfig(image_size=image, **common), add_pooling_layer=False)
        self.visual.trunk.forward_features = lambda x: self.visual.trunk(x).last_hidden_state
        self.text = BertModel(BertConfig(vocab_size=words, **common), add_pooling_layer=False)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, pooled) for _ in range(2))

    def encode_image(self, x):
        return self.heads[0](self.visual.trunk.forward_features(x)[:, 0])

    def encode_text(self, tokens):
        return self.heads[1](self.text(tokens).last_hidden_state[:, 0])


def write_base(shape: dict, folder: Path) -> None:
    "A base of random weights, as the Hub has them"
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(folder / 'tokenizer', 77)
    end = tokenizer.eos_token_id
    words = dict(max_position_embeddings=77, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end)
    blocks = dict(down_block_types=('DownEncoderBlock2D',) * 4, up_block_types=('UpDecoderBlock2D',) * 4)
    base = dict(
        vae=AutoencoderKL(block_out_channels=shape['vae'], layers_per_block=2, latent_channels=4, **blocks),
        unet=UNet2DConditionModel(sample_size=64, in_channels=9, **shape['unet']),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=49408, **words, **shape['text'])),
        tokenizer=tokenizer,
        scheduler=make_scheduler(shape['prediction']),
    )
    save_base(base, folder / 'base')


def prepare(shape: dict, folder: Path) -> None:
    "A base of a shape, and images to train it with"
    write_base(shape, folder)
    m = make_benchmark('phantom-tumour', folder / 'data', n_healthy=2, n_diseased=3, size=256)
    Manifest(m.df.assign(prompt=m.df.label + ' vertebra'), m.root).save(m.root / 'manifest.csv')  # 77 letters


def steer(shape: dict, unet) -> Controller:
    "A new controller of full size on an encoder of BiomedCLIP's shape"
    torch.manual_seed(0)
    given, size = shape['encoder'], shape['encoder']['image']

    def tokenize(texts):
        return torch.ones(len(texts), 256, dtype=torch.long)

    encoder = OpenClipEncoder(Pair(**given), tokenize, None, size, [0.5] * 3, [0.5] * 3, 'random')
    return Controller.new(encoder, unet, **shape['msc'])


def run_job(job: str, a) -> None:
    "One job; prints its seconds and this process's peak memory"
    folder, shape = a.folder, SHAPES[a.shape]
    m = Manifest.load(folder / 'data/manifest.csv')
    start = time.perf_counter()
    base = load_base(folder / 'base', a.dtype, 'cpu')
    loaded = time.perf_counter() - start
    if job in STAGES:
        controller = steer(shape, base['unet']) if STAGES[job].needs_controller else None
        start = time.perf_counter()
        rows = m.where(label=HEALTHY) if STAGES[job].healthy else m
        train(base, rows, folder / job, Training(stage=job, steps=1, batch_size=1, variants=1, roi=a.side), controller)
    if job == 'paint':
        pipe = MedSoftPipeline(**base).load_controller(steer(shape, base['unet']))
        pipe.set_progress_bar_config(disable=True)
        start = time.perf_counter()
        config = GenerateConfig(n_per_label=1, steps=2, roi=a.side, batch_size=1)
        generate(pipe, m.where(label=HEALTHY), m.where(label=m.diseases), folder / job, ['lytic'], config)
    seconds = loaded if job == 'load' else time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    millions = {part: sum(p.numel() for p in base[part].parameters()) / 1e6 for part in ('vae', 'unet', 'text_encoder')}
    print(json.dumps(dict(job=job, seconds=round(seconds, 1), peak_gib=round(peak, 2), millions=millions)), flush=True)


def main(argv=None) -> list:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--shape', choices=list(SHAPES), default='tiny')
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--side', type=int, default=256, help='side of the window in pixels')
    parser.add_argument('--jobs', default=','.join(JOBS))
    parser.add_argument('--folder', type=Path, help='of a process that is one job')
    a = parser.parse_args(argv)
    if a.folder:
        return run_job(a.jobs, a)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(SHAPES[a.shape], Path(folder))
        for job in a.jobs.split(','):
            words = ['--shape', a.shape, '--dtype', a.dtype, '--side', str(a.side), '--jobs', job, '--folder', folder]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f'{job} failed:\n{done.stderr[-3000:]}')
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == '__main__':
    main()
