"Tables are LaTeX that compiles."

import re, shutil, subprocess
import numpy as np, pandas as pd, pytest
from medsoft_nb.core.files import data_path
from medsoft_nb.report.tables import latex, mark_best, with_interval, add_paper_column

stored = sorted(data_path('results').glob('*/*.csv'))


def tables():
    "Every stored table, and one with marks, the paper's column and all characters that LaTeX minds"
    found = [latex(pd.read_csv(p).head(12).round(3), p.parent.name + ' ' + p.stem) for p in stored]
    a = pd.read_csv(data_path('results/full-phantoms/auc.csv'))
    readable = mark_best(
        pd.DataFrame({'arm': a.arm, 'AUC [95 %]': with_interval(a)}), 'AUC [95 %]', a.value, leave_out=('oracle',)
    )
    odd = pd.DataFrame(
        {'a_b & c': ['50 %', '**x & y_1**', '<ins>p < 0.05</ins>', r'~^\{}|#$'], 'n': [1, 2.5, None, np.nan]}
    )
    return [
        *found,
        latex(add_paper_column(readable, 'classification', 'auc'), 'With 100 % of _all_ marks'),
        latex(odd),
    ]


def test_every_row_has_the_columns_of_the_table():
    for text in tables():
        columns = len(re.search(r'\\begin\{tabular\}\{(l+)\}', text)[1])
        body = text.split(r'\toprule')[1].split(r'\bottomrule')[0]
        rows = [r for r in re.split(r'\\\\\n', body.replace('\\midrule\n', '')) if r.strip()]
        assert len(rows) > 1 and all(len(re.findall(r'(?<!\\)&', r)) == columns - 1 for r in rows), text
        plain = re.sub(r'\\[{}]', '', text)
        assert plain.count('{') == plain.count('}')


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='there is no pdflatex')
def test_it_compiles(tmp_path):
    page = (
        '\\documentclass{article}\\usepackage{booktabs}\n'
        '\\usepackage[margin=5mm,paperwidth=900mm,paperheight=900mm]{geometry}\\begin{document}\n'
        + '\n\\clearpage\n'.join(tables())
        + '\\end{document}'
    )
    (tmp_path / 'all.tex').write_text(page)
    done = subprocess.run(
        ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'all.tex'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
