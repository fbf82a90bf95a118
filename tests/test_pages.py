"Texts of the data are shown on pages, in tables, in the terminal and in logs, and are obeyed nowhere."

import logging, re
from pathlib import Path
import nbformat, numpy as np, pandas as pd, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from browser import browser, need_browser, wait_for
from command import medsoft
from medsoft_nb.apps.options import print_counts, print_table
from medsoft_nb.core.escapes import figure_text, html_text, latex_text, markdown_text, visible
from medsoft_nb.core.images import png_url, write_image
from medsoft_nb.core.logs import get_logger
from medsoft_nb.core.safe_html import sanitise
from medsoft_nb.data.check_page import write_page
from medsoft_nb.data.doctor import check
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.evaluation.export import export
from medsoft_nb.report.figures import plot_confusion, save_figure
from medsoft_nb.report.findings import difference_sentence
from medsoft_nb.report.summary import comparison_sentence
from medsoft_nb.report.tables import mark_best, write_table
from medsoft_nb.running.page import html_page

RUN = 'window.hacked=1'
HTML = (
    f'<img src=x onerror="{RUN}">',
    f'<svg onload={RUN}></svg>',
    f'<script>{RUN}</script>',
    f'"><script>{RUN}</script>',
    f"'><body onload={RUN}>",
    f'<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>',
    f'<details open ontoggle={RUN}>x</details>',
    f'<style>@import "javascript:{RUN}";</style>',
    f'<math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>',
    f'&lt;img src=x onerror={RUN}&gt;',
    f'<a href="javascript:{RUN}" autofocus onfocus={RUN}>x</a>',
    f'<input autofocus onfocus={RUN}>',
)
MARKDOWN = (
    f'[x](javascript:{RUN})',
    f'![x](javascript:{RUN})',
    f'<javascript:{RUN}>',
    '[1, 2](javascript:alert)',
    '[x]: javascript:x',
    '`code` **bold** _em_ ~~gone~~',
    'a | b || c',
    '# title',
    '$\\frac{1}{2}$ and \\(x\\)',
    'www.example.org and https://example.org/x',
)
LATEX = (r'\input{/etc/passwd}', r'\write18{id}', r'50 % & _x^2 ~ #1 {', '[x]', '*', r'\\', '``x')
CONTROLS = (
    '\x1b[2J\x1b[31mred',
    '\x1b]8;;https://example.org\x1b\\label\x1b]8;;\x1b\\',
    '\x9b2J',
    '\u202eevil\u2066',
    'a\x07\x08b',
    '\x1b]0;title\x07',
    'one\u2028two',
)
LABELS = (*HTML, *MARKDOWN, *LATEX, *CONTROLS)
RAW = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]')


def manifest(folder, labels=LABELS):
    "A manifest whose labels, ids, sites and prompts are hostile"
    rows = []
    for k, label in enumerate(labels):
        image = np.random.default_rng(k).integers(0, 255, (24, 24)).astype(np.uint8)
        write_image(folder / f'{k}.png', image)
        own = dict(image_id=f'{k} {label}', patient_id=f'p {label}', label=label, site=label, prompt=label)
        rows.append(own | dict(image=f'{k}.png', origin='synthetic', seed=k))
    return Manifest(pd.DataFrame(rows), folder)


def shown(label):
    "What a reader must see of a label, as the browser gives a text"
    return ' '.join(visible(label).split())


def opened(driver, path):
    "Text of a page once it has had time to run what it must not"
    driver.get(path.as_uri())
    driver.execute_script('document.querySelectorAll("details").forEach(part => { part.open = true })')
    wait_for(lambda: driver.execute_script('return document.readyState') == 'complete')
    return ' '.join(driver.execute_script('return document.body.innerText').split())


def check_opened(driver, path, labels, folder):
    "Nothing runs on a page, with its policy and without it, and every label is there to be read"
    text = path.read_text(encoding='utf-8')
    assert text.index('Content-Security-Policy') < text.index('<title')
    bare = folder / f'bare-{path.name}'
    bare.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', '', text), encoding='utf-8')
    for page in (path, bare):
        seen = opened(driver, page)
        assert driver.execute_script('return window.hacked') is None, page
        assert not driver.execute_script('return document.querySelector("script, iframe, object, form, input")')
        assert not driver.execute_script("return document.querySelector('a[href^=\"javascript\" i]')")
        assert [label for label in labels if shown(label) not in seen] == []
        assert not RAW.search(seen)


def table_of(labels):
    return pd.DataFrame({'label': labels, 'AUC': [f'{k / 100:.2f} [0.10, 0.90]' for k in range(len(labels))]})


# ---------------------------------------------------------------- each medium


@pytest.mark.parametrize('label', LABELS)
def test_a_text_survives_each_medium(label):
    import html
    from nbconvert.filters import markdown2html

    assert html.unescape(html_text(label)) == visible(label, lines=True)
    page = markdown2html(f'Label {markdown_text(label)} ends')
    plain = html.unescape(re.sub(r'</?(p|span)>', '', page))
    assert ' '.join(plain.split()) == f'Label {shown(label)} ends'
    assert not RAW.search(html_text(label) + markdown_text(label) + latex_text(label) + figure_text(label))


@pytest.mark.parametrize('label', LABELS)
def test_latex_has_no_command_of_the_data(label):
    known = (
        r'\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|textasciigrave)\{\}|\\[&%$#_{}]'
    )
    left = re.sub(known, '', latex_text(label))
    assert not re.search(r'[\\&%$#_^~]', left) and left[:1] not in ('[', '*')
    assert left.count('{') == left.count('}') <= 1


# ---------------------------------------------------------------- files


def test_tables_escape_cells_and_names_of_columns(tmp_path):
    wide = pd.DataFrame([[0.5] * len(LABELS)], columns=list(LABELS)).assign(arm='base')
    text = write_table(wide, tmp_path / 'wide', '<b>caption \\input{x}')
    assert len({line.count('|') - line.count('\\|') for line in text.splitlines()}) == 1  # a pipe ends no cell
    marked = mark_best(table_of(['**mine**', '<ins>mine</ins>', *HTML]), 'AUC', range(2 + len(HTML)))
    text = write_table(marked, tmp_path / 'marked')
    assert text.count('**') == 2 and text.count('<ins>') == 1  # those of the best and second-best alone
    latex = (tmp_path / 'wide.tex').read_text() + (tmp_path / 'marked.tex').read_text()
    assert '\\input' not in latex and '\\write' not in latex
    assert latex.count('\\textbf{') == 1 and latex.count('\\underline{') == 1


def test_the_card_of_an_export_shows_labels(tmp_path, monkeypatch):
    monkeypatch.setenv('MEDSOFT_SALT', str(tmp_path / 'salt'))
    tame = [label for label in (*HTML, *MARKDOWN, *LATEX)]
    export(manifest(tmp_path, tame), tmp_path / 'out')
    card = (tmp_path / 'out/README.md').read_text()
    assert not re.search('<(?!/?span>)', card) and '](javascript' not in card.replace('\\](', '')


def test_sentences_escape_names_of_arms():
    rows = pd.DataFrame(dict(arm=HTML, value=0.2, lo=0.1, hi=0.3, p_holm=0.01, p=0.01, verdict='better'))
    said = [comparison_sentence(rows), *(difference_sentence(row.arm, row) for row in rows.itertuples())]
    assert not re.search('<(?!/?span>)', ''.join(said))


def test_a_label_with_dollars_can_be_drawn(tmp_path):
    answers = pd.DataFrame(dict(label=[r'$\nonsense$', 'a'], named=['a', r'$\nonsense$'], count=[1, 2]))
    save_figure(plot_confusion(answers).figure, tmp_path / 'figure')
    assert 'nonsense' in (tmp_path / 'figure.svg').read_text()


# ---------------------------------------------------------------- terminal and logs


def test_the_terminal_gets_no_escapes_and_no_marks(tmp_path, capsys):
    labels = [*CONTROLS, '[bold]x[/bold]', '[/nothing]', '[link=javascript:x]y[/link]', ':smile:']
    print_table(pd.DataFrame({'label': labels, '[red]n[/red]': range(len(labels))}), title='[b]t[/b]')
    print_counts(manifest(tmp_path, labels))
    print(repr(manifest(tmp_path, labels)))
    said = capsys.readouterr().out
    assert not RAW.search(said) and '[/nothing]' in said and ':smile:' in said and '[link=javascript:x]' in said
    assert '\\x1b[2J' in said and '\\u202e' in said


def test_errors_and_findings_on_the_command_line(tmp_path):
    made = manifest(tmp_path, CONTROLS + HTML)
    made.df.to_csv(tmp_path / 'manifest.csv', index=False)
    for words in (('data', 'validate'), ('data', 'check')):
        code, said = medsoft(*words, tmp_path / 'manifest.csv')
        assert not RAW.search(said), words
    code, said = medsoft('data', 'validate', tmp_path / '\x1b[2J[bold].csv')
    assert code == 2 and not RAW.search(said) and '[bold]' in said


def test_logs_show_escapes(caplog):
    with caplog.at_level(logging.INFO, 'medsoft_nb'):
        for label in CONTROLS:
            get_logger().info('%s was left out', label)
    assert not RAW.search(caplog.text) and 'u202e' in caplog.text


# ---------------------------------------------------------------- in a browser


def report(folder):
    "A notebook as a hostile run leaves it: labels in tables of ours, and outputs that try to run"
    picture = png_url(np.full((8, 8), 90, np.uint8))
    data = picture.partition(',')[2]
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" onload="{RUN}"><script>{RUN}</script></svg>'
    html = f'<table class="dataframe"><tr><td onclick="{RUN}">kept</td></tr></table></div></div><script>{RUN}</script>'
    outputs = [
        new_output('display_data', {'text/html': html + ''.join(HTML)}),
        new_output('display_data', {'text/markdown': write_table(table_of(list(LABELS)), folder / 'table')}),
        new_output('display_data', {'text/markdown': '\n'.join([*HTML, *MARKDOWN])}),
        new_output('display_data', {'image/svg+xml': svg}),
        new_output('display_data', {'image/png': data}),
        new_output('display_data', {'image/png': f'{data}"><script>{RUN}</script>'}),
        new_output('display_data', {'application/javascript': RUN}),
        new_output('display_data', {'text/latex': f'$\\href{{javascript:{RUN}}}{{x}}$<script>{RUN}</script>'}),
        new_output('stream', text='\n'.join([*HTML, *CONTROLS])),
    ]
    cells = [new_markdown_cell('# Report\n\n' + '\n\n'.join(HTML)), new_code_cell(outputs=outputs)]
    cells[0].metadata['tags'] = [f'"><script>{RUN}</script>']
    nb = new_notebook(cells=cells, metadata={'title': f'<script>{RUN}</script>', 'widgets': {}})
    nbformat.write(nb, folder / 'report.ipynb')
    summary = f'<dl><dt>{html_text(HTML[0])}</dt></dl><img alt="plot" src="{picture}"><script>{RUN}</script>'
    return html_page(folder / 'report.ipynb', folder / 'report.html', f'<script>{RUN}</script>', summary)


def test_the_page_of_a_report(tmp_path):
    page = report(tmp_path)
    text = page.read_text()
    assert text.count('src="data:image/png') == 2 and text.count('src="data:image/svg+xml') == 1
    assert '<td>kept</td>' in text and 'class="table-scroll"' in text and '.run-summary dl' in text
    assert 'src="http' not in text and '@import' not in text.partition('<body')[0]


def test_nothing_runs_in_a_browser(tmp_path):
    need_browser()
    from nbconvert.filters import markdown2html

    page = report(tmp_path)
    made = manifest(tmp_path)
    checked = write_page(check(made, workers=1), tmp_path / 'check.html', f'<script>{RUN}</script>')
    table = tmp_path / 'table.md.html'
    table.write_text(f'<meta charset="utf-8">{markdown2html((tmp_path / "table.md").read_text())}', encoding='utf-8')
    shows = tmp_path / 'shows.html'
    shows.write_text(f'<meta charset="utf-8">{made._repr_html_()}{check(made, workers=1)._repr_html_()}', 'utf-8')
    control = tmp_path / 'control.html'
    control.write_text(''.join(HTML))
    with browser(tmp_path) as driver:
        opened(driver, control)
        assert driver.execute_script('return window.hacked') == 1  # the flag is set where nothing protects
        check_opened(driver, page, LABELS, tmp_path)
        check_opened(driver, checked, LABELS, tmp_path)
        for one in (table, shows):
            opened(driver, one)
            assert driver.execute_script('return window.hacked') is None, one
        driver.get(page.as_uri())
        images = driver.execute_script(
            'return [...document.images].map(image => [image.src.slice(0, 15), image.naturalWidth])'
        )
        assert [width for source, width in images if source == 'data:image/png;'] == [8, 8]
        driver.save_screenshot(str(tmp_path / 'report.png'))


@pytest.mark.parametrize('text', HTML)
def test_sanitised_html_stays_as_it_is(text):
    once = sanitise(text)
    assert sanitise(once) == once
    assert not re.search(r'<(?!/?(p|b|i|a|details|img)\b)', once) and not re.search(r'<[^>]*\son\w+\s*=', once)
