// The panel of the Lesion Studio. What it shows comes from the widget's state; what the user does goes to Python as messages {do: ...}.
const AMBER = '#ffb000';
const TOOLS = { brush: ['Brush', 'B'], eraser: ['Eraser', 'E'], box: ['Box', 'R: an ellipse in a box'], place: ['Place', 'P: click a vertebra'] };
const VIEWS = { mask: ['Mask', 'M'], compare: ['Before / after', 'C, or the arrow keys'], difference: ['Difference', 'D: five times the change'] };
const HELP = 'Image. Draw the lesion with the mouse, or by keyboard: arrow keys move the cross, space draws. B brush, E eraser, R box, P place in a vertebra, '
  + 'bracket keys brush size, Control Z undo, M mask, C compare, D difference, Enter generate, K keep, Escape cancel.';

const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children.flat(Infinity));
  return element;
};
const button = (text, title, onclick, className = '') => make('button', { type: 'button', textContent: text, title, onclick, className });
const picture = (url) => new Promise((done) => {
  if (!url) return done(null);
  const image = new Image();
  image.onload = () => done(image);
  image.src = url;
});

function render({ model, el }) {
  const tell = (what, buffers = []) => model.send(what, undefined, buffers);
  const canvas = make('canvas', { tabIndex: 0, ariaLabel: HELP }), ink = canvas.getContext('2d');
  const mask = make('canvas'), brush = mask.getContext('2d', { willReadFrequently: true });
  const shown = {};                                  // pictures by name: image, ramp, result, difference
  let tool = 'brush', view = 'mask', size = 9, zoom = 4, split = 1, stroke = null, cross = null, busy = false;

  // --- drawing -------------------------------------------------------------------------------------------------
  function draw() {
    if (!shown.image) return;
    const paint = (what) => what && ink.drawImage(what, 0, 0, canvas.width, canvas.height);
    ink.imageSmoothingEnabled = false;
    paint(view === 'difference' && shown.difference ? shown.difference : shown.image);
    if (view === 'compare' && shown.result) drawSplit(paint);
    if (view === 'mask') {
      paint(shown.ramp);
      ink.globalAlpha = .35; paint(mask); ink.globalAlpha = 1;
      if (cross) drawCross();
    }
    if (stroke && tool === 'box') {
      ink.strokeStyle = AMBER; ink.lineWidth = 2;
      ink.strokeRect(stroke.x0 * zoom, stroke.y0 * zoom, (stroke.x - stroke.x0) * zoom, (stroke.y - stroke.y0) * zoom);
    }
  }

  function drawSplit(paint) {
    const x = Math.round(split * canvas.width);
    ink.save(); ink.beginPath(); ink.rect(0, 0, x, canvas.height); ink.clip();
    paint(shown.result);
    ink.restore();
    if (split > 0 && split < 1) { ink.fillStyle = AMBER; ink.fillRect(x - 1, 0, 2, canvas.height); }
  }

  function drawCross() {
    const [x, y] = cross.map((v) => v * zoom), r = Math.max(size * zoom / 2, 4);
    ink.strokeStyle = AMBER; ink.lineWidth = 1.5;
    ink.beginPath(); ink.arc(x, y, r, 0, 7);
    ink.moveTo(x - r - 6, y); ink.lineTo(x + r + 6, y); ink.moveTo(x, y - r - 6); ink.lineTo(x, y + r + 6);
    ink.stroke();
  }

  function line(x0, y0, x1, y1) {
    brush.globalCompositeOperation = tool === 'eraser' ? 'destination-out' : 'source-over';
    brush.strokeStyle = AMBER; brush.lineWidth = size; brush.lineCap = 'round';
    brush.beginPath(); brush.moveTo(x0, y0); brush.lineTo(x1 + .01, y1); brush.stroke();
  }

  function ellipse(x0, y0, x1, y1) {
    brush.globalCompositeOperation = 'source-over'; brush.fillStyle = AMBER;
    brush.beginPath();
    brush.ellipse((x0 + x1) / 2, (y0 + y1) / 2, Math.abs(x1 - x0) / 2, Math.abs(y1 - y0) / 2, 0, 0, 7);
    brush.fill();
  }

  function sendMask() {
    const { data } = brush.getImageData(0, 0, mask.width, mask.height);
    const bits = Uint8Array.from({ length: mask.width * mask.height }, (_, i) => data[4 * i + 3] > 127);
    tell({ do: 'draw' }, [bits.buffer]);
  }

  // --- what the user does --------------------------------------------------------------------------------------
  const look = (name) => { view = name; sync(); draw(); };
  const take = (name) => { tool = name; sync(); };
  const resize = (n) => { size = Math.min(99, Math.max(1, n)); brushSize.value = size; draw(); };
  function compare(share) {
    performance.mark('slide');
    split = Math.min(1, Math.max(0, share)); slider.value = split;
    look('compare');
    performance.measure('medsoft-slide', 'slide');
  }
  const at = (event) => {
    const r = canvas.getBoundingClientRect();
    return [(event.clientX - r.left) / r.width * mask.width, (event.clientY - r.top) / r.height * mask.height];
  };

  canvas.onpointerdown = (event) => {
    canvas.focus({ preventScroll: true }); canvas.setPointerCapture(event.pointerId); cross = null;
    const [x, y] = at(event);
    if (view === 'compare' && shown.result && split < 1 && Math.abs(x / mask.width - split) < .03) { stroke = { slide: true }; return; }
    if (busy) return;
    if (tool === 'place') { tell({ do: 'place', at: [x, y] }); return; }
    stroke = { x0: x, y0: y, x, y };
    if (tool !== 'box') line(x, y, x, y);
    look('mask');
  };
  canvas.onpointermove = (event) => {
    if (!stroke) return;
    const [x, y] = at(event);
    if (stroke.slide) return compare(x / mask.width);
    if (tool !== 'box') line(stroke.x, stroke.y, x, y);
    Object.assign(stroke, { x, y }); draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (!stroke) return;
    const { slide, x0, y0, x, y } = stroke; stroke = null;
    if (slide) return;
    if (tool === 'box') ellipse(x0, y0, x, y);
    draw(); sendMask();
  };

  function step(dx, dy) {                            // the cross, by keyboard
    const [x, y] = cross || [mask.width / 2, mask.height / 2];
    cross = [Math.min(mask.width - 1, Math.max(0, x + dx)), Math.min(mask.height - 1, Math.max(0, y + dy))];
    look('mask');
  }
  function stamp() {
    if (!cross) return step(0, 0);
    const [x, y] = cross;
    if (busy) return;
    if (tool === 'place') return tell({ do: 'place', at: cross });
    if (tool === 'box') ellipse(x - size, y - size, x + size, y + size); else line(x, y, x, y);
    draw(); sendMask();
  }

  const generate = (n) => tell({ do: 'generate', n }), undo = () => tell({ do: 'undo' }), keepIt = () => tell({ do: 'keep' });
  const keys = {
    b: () => take('brush'), e: () => take('eraser'), r: () => take('box'), p: () => take('place'),
    m: () => look('mask'), c: () => shown.result && look('compare'), d: () => shown.result && look('difference'),
    '[': () => resize(size - 2), ']': () => resize(size + 2), ' ': stamp, enter: () => generate(1), k: keepIt, escape: () => tell({ do: 'stop' }),
  };
  const arrows = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };

  function onkeydown(event) {
    const key = event.key.toLowerCase(), typing = /INPUT|SELECT/.test(event.target.tagName), pressing = event.target.tagName === 'BUTTON';
    if (typing || (pressing && (key === 'enter' || key === ' '))) return;
    if (event.ctrlKey || event.metaKey) { if (key !== 'z') return; undo(); }
    else if (event.altKey) return;
    else if (arrows[key]) {
      const [dx, dy] = arrows[key].map((v) => v * (event.shiftKey ? 8 : 2));
      if (view === 'compare' && dx) compare(split + Math.sign(dx) * .05); else step(dx, dy);
    } else if (keys[key]) keys[key]();
    else return;
    event.preventDefault(); event.stopPropagation();
  }

  // --- the panel -----------------------------------------------------------------------------------------------
  const setting = (name, value) => { model.set('settings', { ...model.get('settings'), [name]: value }); model.save_changes(); };
  const pick = (name, text, options) => make('label', {}, text, make('select', { name, onchange: (e) => setting(name, e.target.value) },
    options.map((o) => make('option', { value: o, textContent: o || (name === 'modality' ? 'of the image' : 'any'), selected: o === model.get('settings')[name] }))));
  const range = (name, text, min, max, step, title) => {
    const value = model.get('settings')[name], output = make('output', { textContent: value });
    return make('label', { title }, text, make('input', { type: 'range', name, min, max, step, value, oninput: (e) => { output.textContent = e.target.value; }, onchange: (e) => setting(name, +e.target.value) }), output);
  };
  const upload = (text, title, act) => {
    const input = make('input', { type: 'file', accept: '.png,.tif,.tiff,.jpg,.jpeg,.bmp,.npy', hidden: true, className: act, onchange: async () => {
      const [file] = input.files; if (file) tell({ do: act, name: file.name }, [await file.arrayBuffer()]);
      input.value = '';
    } });
    return [input, button(text, title, () => input.click())];
  };

  const choices = model.get('choices');
  const severity = make('span');
  const severities = () => severity.replaceChildren(pick('severity', 'Severity', ['', ...(choices.severities[model.get('settings').disease] || [])]));
  const seed = make('input', { type: 'number', name: 'seed', min: 0, step: 1, value: model.get('settings').seed, onchange: () => setting('seed', Math.max(0, Math.round(+seed.value || 0))) });
  const form = make('div', {}, pick('disease', 'Disease', choices.diseases), severity, pick('modality', 'Modality', choices.modalities),
    range('ramp', 'Softness', 0, 20, 1, 'Width of the soft border, in pixels'), range('guidance', 'Guidance', 1, 8, .5, 'Weight of the prompt; 1 is off'),
    range('steps', 'Steps', 5, 50, 5, 'Denoising steps'), make('label', { title: 'Of the noise: the same seed paints the same lesion' }, 'Seed', seed));

  const page = make('span', { className: 'page' });
  const previous = button('\u2039', 'Image before', () => tell({ do: 'open', by: -1 }), 'previous'), next = button('\u203a', 'Next image', () => tell({ do: 'open', by: 1 }), 'next');
  const toolButtons = {}, viewButtons = {};
  for (const [name, [text, title]] of Object.entries(TOOLS)) toolButtons[name] = button(text, title, () => take(name), name);
  for (const [name, [text, title]] of Object.entries(VIEWS)) viewButtons[name] = button(text, title, () => look(name), name);
  const brushSize = make('input', { type: 'range', min: 1, max: 41, step: 2, value: size, title: 'Brush size: [ and ]', ariaLabel: 'Brush size', style: 'width: 80px', oninput: () => resize(+brushSize.value) });
  const slider = make('input', { type: 'range', min: 0, max: 1, step: .005, value: 1, className: 'slide', ariaLabel: 'Before and after', oninput: () => compare(+slider.value) });

  const go = button('Generate', 'Enter', () => generate(1), 'main go'), many = button('4 variants', 'The next four seeds', () => generate(4), 'many');
  const stop = button('Cancel', 'Escape', () => tell({ do: 'stop' }), 'stop'), keep = button('Keep', 'K', keepIt, 'keep');
  const bar = make('progress', { max: 1, value: 0, ariaLabel: 'Progress' });
  const say = make('div', { className: 'say' }), numbers = make('dl', { className: 'numbers' }), prompt = make('div', { className: 'prompt' }), thumbs = make('div', { className: 'thumbs' });
  say.setAttribute('role', 'status');
  const toolbar = (name, ...children) => { const t = make('div', { className: 'bar', ariaLabel: name }, children); t.setAttribute('role', 'toolbar'); return t; };

  const root = make('div', { className: 'ms-studio', onkeydown },
    make('div', {},
      toolbar('Image', previous, next, page, upload('Open image', 'PNG, TIFF, JPEG or .npy', 'upload'), upload('Open mask', 'A mask of the same size: what is not black is lesion', 'upload_mask')),
      toolbar('Tools', Object.values(toolButtons), brushSize, button('Undo', 'Ctrl+Z', undo, 'undo'), button('Clear', 'Empty the mask', () => tell({ do: 'clear' }), 'clear')),
      make('div', { className: 'stage' }, canvas),
      toolbar('View', Object.values(viewButtons)), slider),
    make('div', {}, form, prompt, toolbar('Paint', go, many, stop, keep), bar, say, numbers, thumbs));

  function sync() {
    busy = model.get('busy');
    for (const [name, b] of Object.entries(toolButtons)) b.setAttribute('aria-pressed', name === tool);
    for (const [name, b] of Object.entries(viewButtons)) { b.setAttribute('aria-pressed', name === view); b.disabled = name !== 'mask' && !shown.result; }
    for (const b of [go, many, previous, next]) b.disabled = busy;
    slider.disabled = !shown.result; stop.disabled = !busy; keep.disabled = busy || !shown.result || model.get('kept');
    bar.value = model.get('progress'); prompt.textContent = model.get('prompt'); page.textContent = page.title = model.get('page');
    say.textContent = model.get('message'); say.classList.toggle('wrong', model.get('wrong'));
    numbers.replaceChildren(...Object.entries(model.get('numbers')).flatMap(([name, value]) => [make('dt', { textContent: name }), make('dd', { textContent: value })]));
  }
  const listVariants = () => thumbs.replaceChildren(...model.get('thumbs').map((t, i) => make('button', { type: 'button', className: t.kept ? 'kept' : '', title: t.title, onclick: () => tell({ do: 'show', index: i }) }, make('img', { src: t.src, alt: t.title }))));

  // --- what comes from Python ----------------------------------------------------------------------------------
  async function opened() {
    shown.image = await picture(model.get('image'));
    if (!shown.image) return;
    zoom = Math.max(1, Math.round(512 / Math.max(shown.image.width, shown.image.height))); cross = null;
    canvas.width = shown.image.width * zoom; canvas.height = shown.image.height * zoom;
    mask.width = shown.image.width; mask.height = shown.image.height;
    tell({ do: 'hello' }); look('mask');
  }
  async function painted() {
    shown.result = await picture(model.get('result')); shown.difference = await picture(model.get('difference'));
    split = 1; slider.value = 1;
    look(shown.result ? 'compare' : 'mask');
  }
  async function setMask(url) {
    const given = await picture(url);
    brush.globalCompositeOperation = 'source-over'; brush.clearRect(0, 0, mask.width, mask.height);
    if (given) brush.drawImage(given, 0, 0);
    if (view !== 'mask' && given) look('mask'); else draw();
  }
  const ramped = async () => { shown.ramp = await picture(model.get('ramp')); draw(); };
  const listeners = { 'change:image': opened, 'change:result': painted, 'change:ramp': ramped, 'change:thumbs': listVariants, 'change:settings': severities, 'msg:custom': (m) => 'mask' in m && setMask(m.mask) };
  for (const name of ['busy', 'progress', 'message', 'wrong', 'numbers', 'prompt', 'page', 'kept']) listeners[`change:${name}`] = sync;
  for (const [event, act] of Object.entries(listeners)) model.on(event, act);

  severities(); listVariants(); el.append(root);
  opened().then(ramped).then(() => model.get('result') && painted());
  canvas.focus({ preventScroll: true });
  return () => { for (const [event, act] of Object.entries(listeners)) model.off(event, act); };
}

export default { render };
