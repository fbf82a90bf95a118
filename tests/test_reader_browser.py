"The reader study in JupyterLab: keyboard answers, reload, resume."

import json
from pathlib import Path
import nbformat, pytest
from nbformat.v4 import new_code_cell, new_notebook
from browser import browser, jupyterlab, need_browser, run_all, wait_for

pytestmark = pytest.mark.slow

CODE = '''from pathlib import Path
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.apps.reader import ReaderStudy
if not Path('m/manifest.csv').exists(): make_benchmark('phantom-tumour', 'm', n_healthy=2, n_diseased=12, seed=3)
m = Manifest.load('m/manifest.csv'); diseased = m.where(label=m.diseases)
ReaderStudy(diseased.rows(range(6)), diseased.rows(range(6, 12)), 'study', n=6, repeated=0).show()'''


def test_answers_by_keyboard_and_resume(tmp_path):
    need_browser()
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    nbformat.write(
        new_notebook(
            cells=[new_code_cell(CODE)],
            metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}},
        ),
        tmp_path / 'read.ipynb',
    )

    def answers():
        return [json.loads(l) for l in (tmp_path / 'study/reader-1.jsonl').read_text().splitlines()]

    with jupyterlab(tmp_path) as address, browser(tmp_path) as driver:
        driver.get(address('read.ipynb'))
        run_all(driver)
        box = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.ms-reader'))[0]

        def count():
            return driver.find_element(By.CSS_SELECTOR, '.ms-reader .count').text

        wait_for(lambda: count() == '0 of 6')
        for k, key in enumerate('51'):
            box.send_keys(key)
            wait_for(lambda: count() == f'{k + 1} of 6')
        box.send_keys(Keys.BACKSPACE)
        wait_for(lambda: count() == '1 of 6')
        driver.find_elements(By.CSS_SELECTOR, '.ms-reader button')[3].click()
        wait_for(lambda: count() == '2 of 6')
        assert [a.get('rating') for a in answers()] == [5, 1, None, 4]
        driver.save_screenshot(str(tmp_path / 'reader.png'))
        src = driver.find_element(By.CSS_SELECTOR, '.ms-reader img').get_attribute('src')
        assert src.startswith('data:image/png') and 'real' not in driver.find_element(
            By.CSS_SELECTOR, '.ms-reader'
        ).get_attribute('outerHTML').split('src=')[0].lower().replace('surely real', '').replace(
            'rather real', ''
        ).replace('reader', '')
        driver.get(address('read.ipynb'))
        run_all(driver)  # the page is loaded anew, the study goes on
        box = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.ms-reader'))[0]
        wait_for(lambda: count() == '2 of 6')
        assert driver.find_element(By.CSS_SELECTOR, '.ms-reader img').get_attribute('src') == src
        for k in range(2, 6):
            box.send_keys('2')
            wait_for(lambda: count() == f'{k + 1} of 6')
        assert 'Thank you' in driver.find_element(By.CSS_SELECTOR, '.ms-reader .end').text
