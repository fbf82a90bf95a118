// The reader study. What it shows comes from the widget's state; answers go to Python as messages {rating, seconds} or {undo}.
const PAGE = `
<div class="ms-reader" tabindex="0" role="group" aria-label="Reader study. Keys 1 to 5 answer, Backspace takes the last answer back.">
  <progress max="1" value="0" aria-label="read so far"></progress> <span class="count" role="status"></span>
  <div class="stage"><img alt="Image to be read"><p class="end" hidden></p></div>
  <div class="row"></div>
  <p class="hint">Keys <kbd>1</kbd> to <kbd>5</kbd>; <kbd>Backspace</kbd> takes the last answer back.</p>
</div>`;

function render({ model, el }) {
  el.innerHTML = PAGE;
  const find = (selector) => el.querySelector(selector);
  const box = find('.ms-reader'), image = find('img'), row = find('.row'), hint = find('.hint'), end = find('.end');
  let since = performance.now();

  const answer = (rating) => {
    if (!model.get('done')) model.send({ rating, seconds: (performance.now() - since) / 1000 });
  };

  Object.entries(model.get('labels')).forEach(([rating, text]) => {
    const button = document.createElement('button');
    button.type = 'button';
    const number = document.createElement('b');
    number.textContent = rating;
    button.append(number, ` ${text}`);
    button.onclick = () => answer(+rating);
    row.append(button);
  });

  box.addEventListener('keydown', (event) => {
    const rated = /^[1-5]$/.test(event.key);
    if (!rated && event.key !== 'Backspace') return;
    if (rated) answer(+event.key);
    else model.send({ undo: true });
    event.preventDefault();
    event.stopPropagation();
  });

  const show = () => {
    const done = model.get('done'), [read, all] = model.get('progress');
    find('progress').value = read / all;
    find('.count').textContent = `${read} of ${all}`;
    image.hidden = row.hidden = hint.hidden = done;
    end.hidden = !done;
    end.textContent = model.get('message');
    if (!done) image.src = model.get('image');
    since = performance.now();
  };

  model.on('change:image change:done change:progress change:message', show);
  show();
  box.focus();
}

export default { render };
