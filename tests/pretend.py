"""A pretended accelerator: tensors say that they live on the device `pretend`, and refuse to meet those of the CPU.

They compute on the CPU all the same. What only a GPU shows otherwise is shown by it: a tensor that was left behind, a
network that was never moved, a generator of the wrong device, `.numpy()` without `.cpu()`. Memory, speed and half
precision are not. `installed` makes torch find it by itself, in every process that is given the environment, through
torch's own entry point for devices; so it is the best device there, and is taken where none is named.
"""

import os, subprocess, sys
from pathlib import Path
import torch
from forked_kernels import forked_kernels
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = 'pretend'
MOVES = ('aten::_to_copy', 'aten::copy_', 'aten::set_', 'aten::_local_scalar_dense', 'aten::_copy_from')
kept = []  # The registration ends with this object


class Pretend(torch.Tensor):
    "A CPU tensor, `raw`, that says it is elsewhere"

    @staticmethod
    def __new__(cls, raw):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, raw):
        self.raw = raw

    def __repr__(self):
        return f'Pretend({self.raw})'

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copy = Pretend(self.raw.detach().clone())
            memo[id(self)] = (
                torch.nn.Parameter(copy, self.requires_grad) if getattr(self, '_is_param', False) else copy
            )
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    "An operation on the tensors inside, once it is seen that all are there"
    name, tensors = function._schema.name, []
    target, generator = kwargs.get('device'), kwargs.get('generator')
    plain = {**kwargs, **({} if target is None else {'device': torch.device('cpu')})}
    args_inside = changed(args, inside, tensors)
    kwargs_inside = {key: changed(value, inside, tensors) for key, value in plain.items()}
    here = any(isinstance(t, Pretend) for t in tensors)
    stray = [t for t in tensors if not isinstance(t, Pretend) and t.dim()]
    if here and stray and name not in MOVES:
        raise RuntimeError(f'{name}: all tensors should be on {NAME}, but one of shape {tuple(stray[0].shape)} is not')
    lands_here = here if target is None else torch.device(target).type == NAME
    if generator is not None and generator.device.type == 'cpu' and lands_here:
        raise RuntimeError(f'{name}: the generator should be on {NAME}, but is on the CPU')
    out = function(*args_inside, **kwargs_inside)
    in_place = name.endswith('_') and not name.endswith('__') and args and isinstance(args[0], torch.Tensor)
    if in_place:
        return args[0]
    if kwargs.get('out') is not None:
        return kwargs['out']
    return changed(out, Pretend, []) if lands_here else out


def changed(value, change, tensors):
    "What an operation takes or gives, with its tensors changed; `tensors` gets them. torch's own way is slower"
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return change(value)
    if type(value) in (tuple, list):
        return type(value)([changed(one, change, tensors) for one in value])
    return value


def inside(tensor):
    return tensor.raw if isinstance(tensor, Pretend) else tensor


def empty_of(operation):
    "How the device makes empty tensors"

    def make(*args, **kwargs):
        return Pretend(operation(*args, **{**kwargs, 'device': torch.device('cpu'), 'pin_memory': None}))

    return make


def register():
    "What torch calls once it is imported"
    if kept:
        return
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library('aten', 'IMPL')
    for name, overload in (('empty', 'memory_format'), ('empty_strided', 'default')):
        operation = getattr(getattr(torch.ops.aten, name), overload)
        library.impl(operation, empty_of(operation), 'PrivateUse1')
    kept.append(library)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # CPU parameters cannot be filled with others


def installed(folder):
    "Environment in which torch finds the device; `folder` gets the entry point"
    facts = Path(folder) / 'pretend-0.dist-info'
    facts.mkdir(parents=True, exist_ok=True)
    (facts / 'METADATA').write_text('Metadata-Version: 2.1\nName: pretend\nVersion: 0\n')
    (facts / 'entry_points.txt').write_text('[torch.backends]\npretend = pretend:register\n')
    paths = [str(folder), str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')]
    return {'PYTHONPATH': os.pathsep.join(filter(None, paths)), 'OMP_NUM_THREADS': '1'}


def start(folder, *words):
    "Python in a process whose torch finds the accelerator"
    env = {**os.environ, **installed(folder / 'pretended'), 'MEDSOFT_PROGRESS': '0'}
    with forked_kernels(folder / 'pretended', env) as kernels:
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env={**env, **kernels}, capture_output=True, text=True
        )
    return done.returncode, done.stdout + done.stderr
