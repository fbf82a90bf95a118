// The panel of the Lesion Studio. What it shows comes from the widget's state; what the user does goes to Python as messages {do: ...}.
const AMBER = '#ffb000';
const TOOLS = { brush: ['Brush', 'B'], eraser: ['Eraser', 'E'], box: ['Box', 'R: an ellipse in a box'], structure: ['Structure', 'S: click into an organ or a vertebra, or drag a box around it, to outline it'], place: ['Place', 'P: click a structure, a lesion is drawn in it'], move: ['Move', 'H: drag the picture; the middle button does so with any tool'] };
const VIEWS = { mask: ['Mask', 'M'], compare: ['Before / after', 'C, or the arrow keys'], difference: ['Difference', 'D: five times the change'] };
const HELP = 'Image. Draw the lesion with the mouse, or by keyboard: arrow keys move the cross, space draws. B brush, E eraser, R box, S structure at the cross, P place in a structure, H move, '
  + 'bracket keys brush size, plus and minus zoom, 0 fits, page up and down change the slice, Control Z undo, M mask, C compare, D difference, Enter generate, '
  + 'K keep, Escape cancel. The right button, dragged, changes window and level.';
const SMOOTH = 6;                                    // pictures that are enlarged less are smoothed

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

// Numbers of a picture, as Python sends them
function numbers(picture) {
  if (!picture.data) return null;
  const { buffer, byteOffset, byteLength } = picture.data, bytes = buffer.slice(byteOffset, byteOffset + byteLength);
  return { ...picture, data: picture.colour ? new Uint8Array(bytes) : new Uint16Array(bytes) };
}

// A picture as a canvas; grey is what a pixel number is shown as, 0 to 255
function paintPixels({ width, height, colour }, grey) {
  const canvas = make('canvas', { width, height }), ink = canvas.getContext('2d'), pixels = ink.createImageData(width, height), out = pixels.data;
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) out[4 * i + k] = grey(colour ? 3 * i + k : i);
    out[4 * i + 3] = 255;
  }
  ink.putImageData(pixels, 0, 0);
  return canvas;
}

function render({ model, el }) {
  const tell = (what, buffers = []) => model.send(what, undefined, buffers);
  const canvas = make('canvas', { tabIndex: 0, ariaLabel: HELP }), ink = canvas.getContext('2d');
  const mask = make('canvas'), brush = mask.getContext('2d', { willReadFrequently: true });
  const shown = {};                                  // pictures by name: image, ramp, result, difference
  const raw = {};                                    // numbers of image and result
  const range = { low: 0, high: 255 };               // grey values that are shown black and white
  const place = { scale: 1, x: 0, y: 0, fitted: true };   // of the image on the canvas, in its pixels
  let tool = 'brush', view = 'mask', size = 9, split = 1, stroke = null, cross = null, busy = false;

  // --- window and level, zoom ----------------------------------------------------------------------------------
  const value = ({ low = 0, high = 255, colour }) => { const top = colour ? 255 : 65535; return (x) => low + x / top * (high - low); };
  function windowed() {
    if (!raw.image) return;
    const of = value(raw.image), width = Math.max(range.high - range.low, 1e-6);
    const show = ({ data, ...picture }) => paintPixels(picture, (i) => (of(data[i]) - range.low) / width * 255);
    shown.image = show(raw.image);
    shown.result = raw.result && show(raw.result);
    shown.difference = raw.result && paintPixels(raw.image, (i) => 5 * Math.abs(of(raw.result.data[i]) - of(raw.image.data[i])) / width * 255);
    draw();
  }
  function setRange(low, high, name = '') {
    Object.assign(range, { low, high: Math.max(high, low + 1e-6) });
    const { unit, offset } = model.get('looks');
    level.value = (low + high) / 2; wide.value = high - low; windows.value = name;
    const said = unit ? [Math.round((low + high) / 2 - offset), Math.round(high - low)] : ['', ''];
    [levelOut.textContent, wideOut.textContent] = said;
    windowed();
  }
  function looks(keep) {                             // slices of one volume are seen alike
    const before = levelText.textContent, name = windows.value, { windows: named, unit } = model.get('looks'), all = named['all values'], span = Math.max(all[1] - all[0], 1e-6);
    windows.replaceChildren(...Object.keys(named).map((name) => make('option', { value: name, textContent: name })), make('option', { value: '', textContent: 'by hand' }));
    levelText.textContent = unit ? `Level (${unit})` : 'Brightness'; wideText.textContent = unit ? `Width (${unit})` : 'Contrast';
    for (const slider of [level, wide]) Object.assign(slider, { step: span / 500, dir: unit ? 'ltr' : 'rtl' });   // a lower level is brighter
    Object.assign(level, { min: all[0], max: all[1] }); Object.assign(wide, { min: span / 500, max: span * 1.2 });
    if (keep && before === levelText.textContent) return setRange(range.low, range.high, name);
    const [first, [low, high]] = Object.entries(named)[0];
    setRange(low, high, first);
  }
  const byHand = () => setRange(+level.value - wide.value / 2, +level.value + wide.value / 2);

  function fit() {
    place.scale = Math.min(canvas.clientWidth / mask.width, canvas.clientHeight / mask.height);
    place.x = (canvas.clientWidth - mask.width * place.scale) / 2; place.y = (canvas.clientHeight - mask.height * place.scale) / 2;
    place.fitted = true; draw();
  }
  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {   // the point (x, y) stays where it is
    const least = Math.min(canvas.clientWidth / mask.width, canvas.clientHeight / mask.height), scale = Math.min(40, place.scale * factor);
    if (scale <= least) return fit();
    place.x = x - (x - place.x) * scale / place.scale; place.y = y - (y - place.y) * scale / place.scale;
    Object.assign(place, { scale, fitted: false }); pan(0, 0);
  }
  function pan(dx, dy) {                             // a part of the image always stays to be seen
    place.x = Math.min(canvas.clientWidth - 20, Math.max(20 - mask.width * place.scale, place.x + dx));
    place.y = Math.min(canvas.clientHeight - 20, Math.max(20 - mask.height * place.scale, place.y + dy));
    place.fitted = false; draw();
  }
  function grow() {                                  // the canvas is as wide as its column
    if (!mask.width || !stage.clientWidth) return;
    const height = Math.min(stage.clientWidth * mask.height / mask.width, Math.max(340, window.innerHeight - 250));
    canvas.style.height = `${Math.round(height)}px`;
    canvas.width = Math.round(canvas.clientWidth * devicePixelRatio); canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (place.fitted) fit(); else pan(0, 0);
  }

  // --- drawing -------------------------------------------------------------------------------------------------
  function draw() {
    if (!shown.image) return;
    const { scale, x, y } = place, paint = (what) => what && ink.drawImage(what, 0, 0);
    Object.assign(canvas.dataset, { scale, x, y });  // for those who look from outside
    ink.setTransform(1, 0, 0, 1, 0, 0); ink.clearRect(0, 0, canvas.width, canvas.height);
    ink.setTransform(scale * devicePixelRatio, 0, 0, scale * devicePixelRatio, x * devicePixelRatio, y * devicePixelRatio);
    ink.imageSmoothingEnabled = scale < SMOOTH;
    paint(view === 'difference' && shown.difference ? shown.difference : shown.image);
    if (view === 'compare' && shown.result) drawSplit(paint);
    if (view === 'mask') {
      if (tool === 'place' || tool === 'structure') paint(shown.outline);
      paint(shown.ramp);
      ink.globalAlpha = .35; paint(mask); ink.globalAlpha = 1;
      if (cross) drawCross();
    }
    if (stroke?.box) {
      ink.strokeStyle = AMBER; ink.lineWidth = 2 / scale;
      ink.strokeRect(stroke.x0, stroke.y0, stroke.x - stroke.x0, stroke.y - stroke.y0);
    }
  }

  function drawSplit(paint) {
    const x = split * mask.width, thick = 2 / place.scale;
    ink.save(); ink.beginPath(); ink.rect(0, 0, x, mask.height); ink.clip();
    paint(shown.result);
    ink.restore();
    if (split > 0 && split < 1) { ink.fillStyle = AMBER; ink.fillRect(x - thick / 2, 0, thick, mask.height); }
  }

  function drawCross() {
    const [x, y] = cross, r = Math.max(size / 2, 4 / place.scale), arm = r + 6 / place.scale;
    ink.strokeStyle = AMBER; ink.lineWidth = 1.5 / place.scale;
    ink.beginPath(); ink.arc(x, y, r, 0, 7);
    ink.moveTo(x - arm, y); ink.lineTo(x + arm, y); ink.moveTo(x, y - arm); ink.lineTo(x, y + arm);
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
  const take = (name) => { tool = name; sync(); draw(); };
  const resize = (n) => { size = Math.min(99, Math.max(1, n)); brushSize.value = size; draw(); };
  function compare(share) {
    performance.mark('slide');
    split = Math.min(1, Math.max(0, share)); slider.value = split;
    look('compare');
    performance.measure('medsoft-slide', 'slide');
  }
  const at = (event) => {
    const r = canvas.getBoundingClientRect();
    return [(event.clientX - r.left - place.x) / place.scale, (event.clientY - r.top - place.y) / place.scale];
  };

  canvas.oncontextmenu = (event) => event.preventDefault();
  canvas.onwheel = (event) => {
    event.preventDefault();
    if (event.shiftKey) slide(Math.sign(event.deltaY || event.deltaX));
    else zoom(Math.exp(-Math.sign(event.deltaY) * .15), event.offsetX, event.offsetY);
  };
  canvas.onpointerdown = (event) => {
    event.preventDefault();
    canvas.focus({ preventScroll: true }); canvas.setPointerCapture(event.pointerId);
    const [x, y] = at(event), from = { fromX: event.clientX, fromY: event.clientY };
    if (event.button === 2) { stroke = { ...from, look: true, ...range }; return; }
    if (event.button === 1 || tool === 'move') { stroke = { ...from, move: true }; return; }
    cross = null;
    if (view === 'compare' && shown.result && split < 1 && Math.abs(x - split * mask.width) * place.scale < 9) { stroke = { slide: true }; return; }
    if (busy) return;
    if (tool === 'place') { tell({ do: 'place', at: [x, y] }); return; }
    stroke = { x0: x, y0: y, x, y, box: tool === 'box' || tool === 'structure' };
    if (!stroke.box) line(x, y, x, y);
    look('mask');
  };
  canvas.onpointermove = (event) => {
    if (!stroke) return;
    const [x, y] = at(event), dx = event.clientX - stroke.fromX, dy = event.clientY - stroke.fromY;
    if (stroke.slide) return compare(x / mask.width);
    if (stroke.move) { pan(dx, dy); Object.assign(stroke, { fromX: event.clientX, fromY: event.clientY }); return; }
    if (stroke.look) {                               // to the right: wider; down: brighter, as at a workstation
      const width = (stroke.high - stroke.low) * Math.exp(dx / 200), centre = (stroke.low + stroke.high) / 2 - dy / 300 * (stroke.high - stroke.low);
      return setRange(centre - width / 2, centre + width / 2);
    }
    if (!stroke.box) line(stroke.x, stroke.y, x, y);
    Object.assign(stroke, { x, y }); draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (!stroke) return;
    const { slide, move, look, x0, y0, x, y } = stroke; stroke = null;
    if (slide || move || look) return;
    if (tool === 'structure') return structure(x0, y0, x, y);
    if (tool === 'box') ellipse(x0, y0, x, y);
    draw(); sendMask();
  };

  function structure(x0, y0, x, y) {                 // a click, or a box
    const clicked = Math.hypot(x - x0, y - y0) * place.scale < 5;
    draw(); tell({ do: 'structure', where: clicked ? [x0, y0] : [x0, y0, x, y] });
  }

  function step(dx, dy) {                            // the cross, or the picture, by keyboard
    if (tool === 'move') return pan(-10 * dx, -10 * dy);
    const [x, y] = cross || [mask.width / 2, mask.height / 2];
    cross = [Math.min(mask.width - 1, Math.max(0, x + dx)), Math.min(mask.height - 1, Math.max(0, y + dy))];
    look('mask');
  }
  function stamp() {
    if (!cross) return step(0, 0);
    const [x, y] = cross;
    if (busy) return;
    if (tool === 'place') return tell({ do: 'place', at: cross });
    if (tool === 'structure') return structure(x, y, x, y);
    if (tool === 'box') ellipse(x - size, y - size, x + size, y + size); else line(x, y, x, y);
    draw(); sendMask();
  }

  function slide(by) {                               // to another slice
    const { slice, count } = model.get('place'), to = Math.min(count - 1, Math.max(0, slice + by));
    if (count > 1 && to !== slice && !busy) tell({ do: 'slice', number: to });
  }

  const generate = (n) => tell({ do: 'generate', n }), undo = () => tell({ do: 'undo' }), keepIt = () => tell({ do: 'keep' });
  const keys = {
    b: () => take('brush'), e: () => take('eraser'), r: () => take('box'), p: () => take('place'), s: () => take('structure'), h: () => take('move'),
    '+': () => zoom(1.25), '=': () => zoom(1.25), '-': () => zoom(.8), 0: fit, pageup: () => slide(-1), pagedown: () => slide(1),
    m: () => look('mask'), c: () => shown.result && look('compare'), d: () => shown.result && look('difference'),
    '[': () => resize(size - 2), ']': () => resize(size + 2), ' ': stamp, enter: () => generate(1), k: keepIt, escape: () => tell({ do: 'stop' }),
  };
  const arrows = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };

  function onkeydown(event) {
    const key = event.key.toLowerCase(), typing = /INPUT|SELECT|TEXTAREA/.test(event.target.tagName), pressing = event.target.tagName === 'BUTTON';
    if (typing || (pressing && (key === 'enter' || key === ' '))) return event.stopPropagation();   // JupyterLab has keys of its own
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
  const number = (name, text, min, max, step, title) => {
    const value = model.get('settings')[name], output = make('output', { textContent: value });
    return make('label', { title }, text, make('input', { type: 'range', name, min, max, step, value, oninput: (e) => { output.textContent = e.target.value; }, onchange: (e) => setting(name, +e.target.value) }), output);
  };
  const upload = (text, title, act, multiple = false) => {   // any name, since DICOM files often have no ending
    const input = make('input', { type: 'file', multiple, hidden: true, className: act, ariaLabel: text, onchange: async () => {
      const files = [...input.files];
      if (files.length) tell({ do: act, names: files.map((file) => file.name) }, await Promise.all(files.map((file) => file.arrayBuffer())));
      input.value = '';
    } });
    return [input, button(text, title, () => input.click())];
  };

  const choices = model.get('choices');
  const severity = make('span');
  const severities = () => severity.replaceChildren(pick('severity', 'Severity', ['', ...(choices.severities[model.get('settings').disease] || [])]));
  const seed = make('input', { type: 'number', name: 'seed', min: 0, step: 1, value: model.get('settings').seed, onchange: () => setting('seed', Math.max(0, Math.round(+seed.value || 0))) });
  const words = (name, text, placeholder) => make('label', {}, text, make('textarea', { name, rows: 2, placeholder, value: model.get('settings')[name], onchange: (e) => setting(name, e.target.value.trim()) }));
  const pixel = make('input', { type: 'number', name: 'spacing', min: 0, step: 'any', placeholder: 'not known', onchange: () => tell({ do: 'spacing', mm: pixel.value === '' ? null : +pixel.value }) });
  const form = make('div', {}, pick('disease', 'Disease', choices.diseases), severity, pick('modality', 'Modality', choices.modalities),
    make('label', { title: 'Width of a pixel in mm: Place draws lesions of the size that they have. An image that says it itself keeps it' }, 'Pixel, mm', pixel),
    number('ramp', 'Softness', 0, 20, 1, 'Width of the soft border, in pixels'), number('guidance', 'Guidance', 1, 8, .5, 'Weight of the prompt; 1 is off'),
    number('steps', 'Steps', 5, 50, 5, 'Denoising steps'), make('label', { title: 'Of the noise: the same seed paints the same lesion' }, 'Seed', seed),
    make('details', {}, make('summary', { textContent: 'Own words' }), words('prompt', 'Prompt', 'composed, as below'), words('negative_prompt', 'Not', 'what to lead away from')));

  const page = make('span', { className: 'page' });
  const previous = button('\u2039', 'Image before', () => tell({ do: 'open', by: -1 }), 'previous'), next = button('\u203a', 'Next image', () => tell({ do: 'open', by: 1 }), 'next');
  const toolButtons = {}, viewButtons = {};
  for (const [name, [text, title]] of Object.entries(TOOLS)) toolButtons[name] = button(text, title, () => take(name), name);
  for (const [name, [text, title]] of Object.entries(VIEWS)) viewButtons[name] = button(text, title, () => look(name), name);
  const brushSize = make('input', { type: 'range', min: 1, max: 41, step: 2, value: size, title: 'Brush size: [ and ]', ariaLabel: 'Brush size', style: 'width: 80px', oninput: () => resize(+brushSize.value) });
  const slider = make('input', { type: 'range', min: 0, max: 1, step: .005, value: 1, className: 'slide', ariaLabel: 'Before and after', oninput: () => compare(+slider.value) });

  const go = button('Generate', 'Enter', () => generate(1), 'main go'), many = button('4 variants', 'The next four seeds', () => generate(4), 'many');
  const stop = button('Cancel', 'Escape', () => tell({ do: 'stop' }), 'stop'), keep = button('Keep', 'K', keepIt, 'keep');
  const another = button('Another lesion', 'Keeps this image, and opens it to paint another lesion into it', () => tell({ do: 'paint_on' }), 'another');
  const bar = make('progress', { max: 1, value: 0, ariaLabel: 'Progress' });
  const say = make('div', { className: 'say' }), measures = make('dl', { className: 'numbers' }), prompt = make('div', { className: 'prompt' }), weights = make('div', { className: 'weights' }), remarks = make('div', { className: 'remarks' }), thumbs = make('div', { className: 'thumbs' });
  say.setAttribute('role', 'status');
  const toolbar = (name, ...children) => { const t = make('div', { className: 'bar', ariaLabel: name }, children); t.setAttribute('role', 'toolbar'); return t; };

  const windows = make('select', { name: 'window', onchange: () => { const found = model.get('looks').windows[windows.value]; if (found) setRange(...found, windows.value); } });
  const [level, wide] = ['level', 'width'].map((name) => make('input', { type: 'range', name, oninput: byHand }));
  const [levelText, wideText, levelOut, wideOut] = ['span', 'span', 'output', 'output'].map((tag) => make(tag));
  const stage = make('div', { className: 'stage' }, canvas);
  const slice = make('input', { type: 'range', name: 'slice', min: 0, step: 1, title: 'Page up and page down', oninput: () => slide(+slice.value - model.get('place').slice) });
  const sliceOut = make('output'), planes = make('select', { name: 'plane', onchange: () => tell({ do: 'plane', plane: planes.value }) });
  const slices = toolbar('Slices', make('label', {}, 'Slice', slice, sliceOut), make('label', {}, 'Plane', planes));
  slices.classList.add('slices');
  const columns = make('div', { className: 'columns' },
    make('div', {},
      toolbar('Image', previous, next, page, upload('Open image', 'DICOM (all files of a series at once), NIfTI, PNG, TIFF, JPEG or .npy', 'upload', true), upload('Open mask', 'A mask of the same size: what is not black is lesion', 'upload_mask')),
      slices, toolbar('Tools', Object.values(toolButtons), brushSize, button('Body', 'The whole body as a structure', () => { take('structure'); tell({ do: 'structure', where: [] }); }, 'body'), button('Undo', 'Ctrl+Z', undo, 'undo'), button('Clear', 'Empty the mask', () => tell({ do: 'clear' }), 'clear')),
      stage, slider,
      toolbar('View', Object.values(viewButtons), make('label', { title: 'Also: drag with the right button' }, 'Window', windows), make('label', {}, levelText, level, levelOut), make('label', {}, wideText, wide, wideOut),
        button('\u2212', 'Smaller: - or the wheel', () => zoom(.8), 'smaller'), button('+', 'Larger: + or the wheel', () => zoom(1.25), 'larger'), button('Fit', 'The whole image: 0', fit, 'fit'))),
    make('div', { className: 'side' }, form, make('div', {}, prompt, weights, remarks, toolbar('Paint', go, many, stop, keep, another), bar, say, measures, thumbs)));
  const root = make('div', { className: 'ms-studio', onkeydown }, columns);

  function sync() {
    busy = model.get('busy');
    for (const [name, b] of Object.entries(toolButtons)) b.setAttribute('aria-pressed', name === tool);
    for (const [name, b] of Object.entries(viewButtons)) { b.setAttribute('aria-pressed', name === view); b.disabled = name !== 'mask' && !shown.result; }
    for (const b of [go, many, previous, next]) b.disabled = busy;
    slider.hidden = !shown.result; stop.disabled = !busy; another.disabled = busy || !shown.result; keep.disabled = busy || !shown.result; keep.textContent = model.get('kept') ? 'Take back' : 'Keep';
    bar.value = model.get('progress'); prompt.textContent = model.get('prompt'); remarks.textContent = model.get('remarks'); weights.textContent = `Painted by ${model.get('weights')}`; page.textContent = page.title = model.get('page');
    say.textContent = model.get('message'); say.classList.toggle('wrong', model.get('wrong'));
    const { count = 1, slice: number = 0, planes: named = [], plane = '', size = {} } = model.get('place');
    slices.hidden = count < 2 && named.length < 2; slice.max = count - 1; slice.value = number; sliceOut.textContent = `${number + 1} / ${count}`;
    planes.replaceChildren(...named.map((name) => make('option', { value: name, textContent: name || 'as acquired', selected: name === plane })));
    slice.disabled = planes.disabled = busy;
    pixel.value = size.mm ? +size.mm.toPrecision(4) : ''; pixel.disabled = busy || size.fixed;
    measures.replaceChildren(...Object.entries(model.get('numbers')).flatMap(([name, value]) => [make('dt', { textContent: name }), make('dd', { textContent: value })]));
  }
  const listVariants = () => thumbs.replaceChildren(...model.get('thumbs').map((t, i) => make('button', { type: 'button', className: t.kept ? 'kept' : '', title: t.title, ariaPressed: t.shown, onclick: () => tell({ do: 'show', index: i }) }, make('img', { src: t.src, alt: t.title }))));

  // --- what comes from Python ----------------------------------------------------------------------------------
  let opening = {};
  function opened() {
    raw.image = numbers(model.get('image')); raw.result = null; shown.ramp = null;
    if (!raw.image) return;
    const { width, height } = raw.image, { number, plane } = model.get('place'), volume = number === opening.number;
    cross = null; shown.result = null;
    if (!volume || plane !== opening.plane) place.fitted = true;
    opening = { number, plane };
    Object.assign(mask, { width, height });          // which empties it
    looks(volume); grow();
    tell({ do: 'hello' }); look('mask');
  }
  function painted() {
    raw.result = numbers(model.get('result'));
    split = 1; slider.value = 1;
    windowed(); look(shown.result ? 'compare' : 'mask');
  }
  async function setMask(url) {
    const given = await picture(url);
    brush.globalCompositeOperation = 'source-over'; brush.clearRect(0, 0, mask.width, mask.height);
    if (given) brush.drawImage(given, 0, 0);
    if (view !== 'mask' && given) look('mask'); else draw();
  }
  const ramped = async () => { shown.ramp = await picture(model.get('ramp')); draw(); };
  const outlined = async () => { shown.outline = await picture(model.get('outline')); draw(); };
  const listeners = { 'change:image': opened, 'change:result': painted, 'change:ramp': ramped, 'change:outline': outlined, 'change:thumbs': listVariants, 'change:settings': severities, 'change:looks': () => raw.image && looks(model.get('place').number === opening.number), 'msg:custom': (m) => 'mask' in m && setMask(m.mask) };
  for (const name of ['busy', 'progress', 'message', 'wrong', 'numbers', 'prompt', 'page', 'kept', 'place', 'remarks', 'weights']) listeners[`change:${name}`] = sync;
  for (const [event, act] of Object.entries(listeners)) model.on(event, act);

  severities(); listVariants(); el.append(root);
  opened(); ramped(); outlined();
  if (model.get('result').data) painted();
  const sized = new ResizeObserver(grow); sized.observe(stage);
  canvas.focus({ preventScroll: true });
  return () => { sized.disconnect(); for (const [event, act] of Object.entries(listeners)) model.off(event, act); };
}

export default { render };
