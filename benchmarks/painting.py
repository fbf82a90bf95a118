"""Painting against diffusers' `StableDiffusionInpaintPipeline`, on the same weights, in the same precision, in one process.

    python benchmarks/painting.py
    python benchmarks/painting.py --only whole region --rounds 9
    python benchmarks/painting.py --device cuda --base stable-diffusion-v1-5/stable-diffusion-inpainting --dtype bfloat16

Both paint the same images with the same prompts, steps and guidance, one after the other in every round. The figures are theirs / ours: above 1 this package is faster, or takes less. CPU time is what counts on a machine that others use too.
"""

import argparse, copy, json, resource, statistics, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from transformers import CLIPTextConfig, CLIPTextModel
from medsoft_nb.core.devices import pick_device
from medsoft_nb.core.logs import get_logger
from medsoft_nb.data.manifest import HEALTHY
from medsoft_nb.lesions.soft import soften
from medsoft_nb.models.base import load_base, make_scheduler, NETWORKS, place_network
from medsoft_nb.models.tiny import tiny_tokenizer
from medsoft_nb.painting.generate import generate, GenerateConfig, with_lora
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.painting.rows import join_rows, note_rows, noted_rows
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.phantom.spine import phantom

PROMPT = 'sagittal CT of the spine, lytic lesion'
FIGURES = ('whole', 'variants', 'region', 'preset', 'lora', 'sd15', 'memory', 'rows')


def ours_of(base: dict) -> MedSoftPipeline:
    pipe = MedSoftPipeline(**base)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs_of(base: dict) -> StableDiffusionInpaintPipeline:
    "Its networks are copies, in the layout in which diffusers loads them"
    plain = {part: copy.deepcopy(base[part]).to(memory_format=torch.contiguous_format) for part in NETWORKS}
    none = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe = StableDiffusionInpaintPipeline(**base | plain, **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(n: int, side: int, different: int) -> tuple:
    "Images and soft masks of `side` pixels, `different` of them apart"
    images, masks = [], []
    for k in range(different):
        images.append(phantom(k, 'ct', size=side).image.astype(np.float32))
        masks.append(soften(phantom(k, 'ct', 'lytic', size=side).lesion_mask, 5))
    return ([images[k % different] for k in range(n)], [masks[k % different] for k in range(n)])


def generators(n: int, device) -> list:
    return [torch.Generator(device).manual_seed(k) for k in range(n)]


def paint_ours(pipe, images, masks, options, **more):
    made = pipe(PROMPT, images, masks, generator=generators(len(images), 'cpu'), **options, **more)
    return np.stack(made.images)


def paint_theirs(pipe, images, masks, options):
    "What a user of diffusers calls, who wants arrays back"
    channels, n = pipe.vae.config.in_channels, len(images)
    x = torch.from_numpy(np.stack(images))[:, None].expand(-1, channels, -1, -1)
    soft = torch.from_numpy(np.stack(masks))[:, None]
    size = dict(height=x.shape[-2], width=x.shape[-1])
    given = dict(image=x, mask_image=soft, generator=generators(n, 'cpu'), output_type='np', **size)
    return pipe([PROMPT] * n, **given, **options).images


def interleaved(ours, theirs, rounds: int, device) -> dict:
    "CPU and wall time of both, by turns; medians of the rounds after the first, which only warms up"
    times = []
    for k in range(rounds + 1):
        row = {}
        for name, call in (('ours', ours), ('theirs', theirs)) if k % 2 else (('theirs', theirs), ('ours', ours)):
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            if device.type == 'cuda':
                torch.cuda.synchronize()
            row[f'{name}_cpu'], row[f'{name}_wall'] = time.process_time() - cpu, time.perf_counter() - wall
        times.append(row)
    times = pd.DataFrame(times[1:])
    cpu, wall = times.theirs_cpu / times.ours_cpu, times.theirs_wall / times.ours_wall
    seconds = dict(ours_s=times.ours_cpu.median(), theirs_s=times.theirs_cpu.median())
    return seconds | dict(cpu=cpu.median(), lo=cpu.min(), hi=cpu.max(), wall=wall.median())


class Bench:
    "The cases, each a list of rows"

    def __init__(self, a):
        self.a, self.device = a, pick_device(a.device)
        self.base = load_base(a.base, dtype=getattr(torch, a.dtype), device=self.device)
        self.ours, self.theirs = ours_of(self.base), theirs_of(self.base)
        self.side = self.ours.base_size
        self.options = dict(num_inference_steps=a.steps, guidance_scale=a.guidance)

    def row(self, name, n, ours, theirs):
        found = interleaved(ours, theirs, self.a.rounds, self.device)
        row = dict(case=name, images=n, **found)
        get_logger().info('%s', row)
        return row

    def against_whole(self, name, n, different, options=None, **more):
        "Our call with `more` settings against their whole frame"
        images, masks = pictures(n, self.side, different)
        mine = self.options | (options or {})
        return self.row(
            name,
            n,
            lambda: paint_ours(self.ours, images, masks, mine, **more),
            lambda: paint_theirs(self.theirs, images, masks, self.options),
        )

    def whole(self):
        return [self.against_whole('whole frame', n, n) for n in self.a.batches]

    def variants(self):
        return [self.against_whole('variants of one background', 8, 1)]

    def region(self):
        return [
            self.against_whole('region of half the side', n, n, roi=self.side // 2) for n in (1, self.a.batches[-1])
        ]

    def preset(self):
        fast = json.loads(self.a.preset)
        rows = [self.against_whole('whole frame, preset', n, n, fast) for n in (1, self.a.batches[-1])]
        region = dict(roi=self.side // 2)
        return rows + [self.against_whole('region, preset', n, n, fast, **region) for n in (1, self.a.batches[-1])]

    def lora(self):
        "Set-up, and painting with what was set up; diffusers' fuses too, which is its fastest way"
        images, masks = pictures(4, self.side, 4)
        with tempfile.TemporaryDirectory() as d:
            write_lora(load_base(self.a.base), d)
            file = Path(d) / 'pytorch_lora_weights.safetensors'
            fresh = theirs_of(load_base(self.a.base, dtype=getattr(torch, self.a.dtype), device=self.device))

            def set_up():
                fresh.load_lora_weights(d, weight_name=file.name)
                fresh.fuse_lora()

            def take_off():
                fresh.unfuse_lora()
                fresh.unload_lora_weights()

            first = self.row(
                'LoRA: set up and take off', 1, lambda: with_lora(self.ours, file), lambda: (set_up(), take_off())
            )
            set_up()
            mine = with_lora(self.ours, file)
            second = self.row(
                'LoRA: whole frame',
                4,
                lambda: paint_ours(mine, images, masks, self.options),
                lambda: paint_theirs(fresh, images, masks, self.options),
            )
        return [first, second]

    def sd15(self):
        "Text encoder and autoencoder of Stable Diffusion 1.5's shape, around a U-Net of next to nothing"
        base, side = sd15_without_unet(), self.a.sd15_side
        theirs = theirs_of(base)
        ours = ours_of(base | {part: place_network(base[part], self.device) for part in NETWORKS})
        rows = []
        for n, different in ((1, 1), (4, 1), (4, 4)):
            images, masks = pictures(n, side, different)
            few = self.options | dict(num_inference_steps=1)
            rows.append(
                self.row(
                    f"SD 1.5's shape at {side} px, all but the U-Net",
                    n,
                    lambda: paint_ours(ours, images, masks, few, roi=side),
                    lambda: paint_theirs(theirs, images, masks, few),
                )
            )
        return rows

    def memory(self):
        "Peak of a process that paints, above that of one that has loaded the base"
        rows = []
        for n in (1, 16):
            peaks = {who: measured_peak(self.a, who, n) for who in ('ours', 'theirs')}
            rows.append(dict(case='memory above the base, MiB', images=n, **{f'{k}_mib': v for k, v in peaks.items()}))
            rows[-1]['cpu'] = peaks['theirs'] / peaks['ours']
        return rows

    def rows(self):
        "What a generated row costs beside the networks, and whether it grows with the number of rows"
        return [*beside_the_model(self), *growth(self.a.rows)]


def write_lora(base: dict, folder) -> None:
    "A LoRA of random weights for the attention of U-Net"
    unet = base['unet']
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=['to_q', 'to_k', 'to_v', 'to_out.0']))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    MedSoftPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def sd15_without_unet() -> dict:
    "Random weights; the U-Net has one block of 8 channels"
    torch.manual_seed(0)
    blocks = dict(down_block_types=('DownEncoderBlock2D',) * 4, up_block_types=('UpDecoderBlock2D',) * 4)
    wide = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512)
    few = dict(block_out_channels=(8,), down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',))
    few |= dict(layers_per_block=1, norm_num_groups=8, cross_attention_dim=768, sample_size=64, mid_block_type=None)
    with tempfile.TemporaryDirectory() as d:
        tokenizer = tiny_tokenizer(d, 77)
    words = dict(vocab_size=len(tokenizer), max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id)
    size = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    networks = dict(
        vae=AutoencoderKL(**blocks, **wide),
        unet=UNet2DConditionModel(in_channels=9, out_channels=4, **few),
        text_encoder=CLIPTextModel(CLIPTextConfig(**words, **size)),
    )
    for network in networks.values():
        network.eval().requires_grad_(False)
    return networks | dict(tokenizer=tokenizer, scheduler=make_scheduler())


def measured_peak(a, who: str, n: int) -> float:  # MiB
    "Of a process of its own"
    command = [sys.executable, __file__, '--peak', who, '--images', str(n), '--base', a.base, '--dtype', a.dtype]
    command += ['--device', str(pick_device(a.device)), '--steps', '2', '--guidance', str(a.guidance)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def peak(a) -> float:  # MiB above the loaded base
    "Paint once, in this process"
    bench = Bench(a)
    images, masks = pictures(a.images, bench.side, a.images)
    cuda = bench.device.type == 'cuda'

    def top():
        return (
            torch.cuda.max_memory_allocated() / 2**20
            if cuda
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        )

    before = top()
    paint = dict(ours=paint_ours, theirs=paint_theirs)[a.peak]
    paint(getattr(bench, a.peak), images, masks, bench.options)
    return top() - before


class Stopwatch:
    "CPU time inside the networks of a pipeline"

    def __init__(self, pipe):
        self.seconds, self.depth = 0.0, 0
        for part, name in (('unet', 'forward'), ('vae', 'encode'), ('vae', 'decode'), ('text_encoder', 'forward')):
            network = getattr(pipe, part)
            setattr(network, name, self.around(getattr(network, name)))

    def around(self, call):
        def timed(*args, **kwargs):
            begun, self.depth = time.process_time(), self.depth + 1
            try:
                return call(*args, **kwargs)
            finally:
                self.depth -= 1
                self.seconds += 0 if self.depth else time.process_time() - begun

        return timed


def beside_the_model(bench) -> list:
    "Share of the CPU time of `generate` that is spent outside the networks"
    rows = []
    for name, roi in (('whole frame', None), ('region', bench.side // 2)):
        pipe = ours_of(load_base(bench.a.base, dtype=getattr(torch, bench.a.dtype), device=bench.device))
        with tempfile.TemporaryDirectory() as d:
            m = make_benchmark('phantom-tumour', Path(d) / 'data', n_healthy=8, n_diseased=8, size=bench.side)
            healthy, diseased = m.where(label=HEALTHY), m.where(label=m.diseases)
            config = GenerateConfig(n_per_label=16, steps=bench.a.steps, roi=roi)
            generate(pipe, healthy, diseased, Path(d) / 'warm', m.diseases[:1], config.replace(n_per_label=2))
            watch, begun = Stopwatch(pipe), time.process_time()
            made = generate(pipe, healthy, diseased, Path(d) / 'out', m.diseases[:2], config)
            total = time.process_time() - begun
        share = (total - watch.seconds) / total
        more = dict(beside_ms=1000 * (total - watch.seconds) / len(made), share=share)
        rows.append(dict(case=f'a row beside the networks, {name}', images=len(made), **more))
    return rows


def growth(counts: list) -> list:
    "Cost of noting a row where there are many, and of joining them"
    rows = []
    for n in counts:
        with tempfile.TemporaryDirectory() as d:
            folder = Path(d)
            one = [
                dict(image_id=f'a-{k:06d}', patient_id='p', image=f'images/{k}.png', label='lytic', prompt=PROMPT * 2)
                for k in range(n + 16)
            ]
            note_rows(folder, one[:n])
            begun = time.process_time()
            note_rows(folder, one[n:])
            noted = time.process_time() - begun
            begun = time.process_time()
            join_rows(folder)
            joined = time.process_time() - begun
        rows.append(dict(case='a row noted', images=n, note_us=noted / 16 * 1e6, join_us=joined / n * 1e6))
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--base', default='medsoft-tiny')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--guidance', type=float, default=2.0)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--only', nargs='+', choices=FIGURES, default=list(FIGURES))
    parser.add_argument('--preset', default='{"scheduler": "dpm++", "num_inference_steps": 10}', help='As JSON')
    parser.add_argument('--sd15-side', type=int, default=256)
    parser.add_argument('--rows', type=int, nargs='+', default=[100, 10_000, 100_000])
    parser.add_argument('--peak', choices=('ours', 'theirs'), help=argparse.SUPPRESS)
    parser.add_argument('--images', type=int, default=1, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.peak:
        print(peak(a))
        return
    bench, found = Bench(a), []
    for name in a.only:
        rows = getattr(bench, name)()
        found += rows
        print(pd.DataFrame(rows).round(4).to_markdown(index=False), flush=True)
    return found


if __name__ == '__main__':
    main()
