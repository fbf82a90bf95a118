"""How long Stable Diffusion 1.5 would train and paint on a GPU: an estimate from counted operations, nothing is run.

    python benchmarks/estimate.py --tflops 300 --gpus 1 4

Operations of a forward pass are counted at 512 pixels (`torch.utils.flop_counter`, on networks without weights). A
training step costs three forward passes. `--tflops` is what a GPU keeps up, in 10^12 operations a second: 300 is 30 % of
what an H100's data sheet names for bf16.
"""

import argparse

import pandas as pd
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from scale import SIZES
from torch.utils.flop_counter import FlopCounterMode


def count(call, *inputs) -> float:
    "Operations of a call in units of 10^12"
    with FlopCounterMode(display=False) as counter:
        call(*inputs)
    return counter.get_total_flops() / 1e12


def passes() -> dict:
    "Operations of one image of 512 pixels through each network"
    size = SIZES['sd15']
    blocks = dict(down_block_types=['DownEncoderBlock2D'] * 4, up_block_types=['UpDecoderBlock2D'] * 4)
    with torch.device('meta'):
        unet, vae = UNet2DConditionModel(in_channels=9, **size['unet']), AutoencoderKL(**blocks, **size['vae'])
        latents, text = torch.zeros(1, 9, 64, 64), torch.zeros(1, 77, 768)
        return dict(
            unet=count(unet, latents, torch.zeros(1), text),
            encode=count(vae.encode, torch.zeros(1, 3, 512, 512)),
            decode=count(vae.decode, latents[:, :4]),
        )


def work(one: dict) -> dict:
    "Operations of what a user waits for"
    image = 2 * 50 * one['unet'] + 2 * one['encode'] + 2 * one['decode']
    return {
        'one image: 50 steps with guidance, encoded and decoded twice': image,
        '500 images': 500 * image,
        'LoRA, 4,000 steps of 16 windows': 4000 * 16 * 3 * one['unet'],
        'whole U-Net, 4,000 steps of 64 windows': 4000 * 64 * 3 * one['unet'],
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--tflops', type=float, default=300, help='that one GPU keeps up')
    parser.add_argument('--gpus', type=int, nargs='+', default=[1, 4], help='numbers of GPUs that share the work')
    a = parser.parse_args(argv)
    one = passes()
    print('10^12 operations a pass:', ', '.join(f'{name} {value:.2f}' for name, value in one.items()))
    rows = []
    for name, n in work(one).items():
        rows.append(dict(work=name, operations=f'{n:,.0f}') | {f'{g} GPU': n / a.tflops / g for g in a.gpus})
    print(pd.DataFrame(rows).to_string(index=False, float_format='{:,.1f} s'.format))


if __name__ == '__main__':
    main()
