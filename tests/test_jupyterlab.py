"""What people use in JupyterLab, by mouse and keyboard: the Lesion Studio, the quickstart, the reader study.

The Studio's page of its own is here, too.
"""

import json, os, re, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
from types import SimpleNamespace
import nbformat, nibabel, numpy as np, pytest
from nbformat.v4 import new_code_cell, new_notebook
from browser import browser, free_port, jupyterlab, low_contrast, need_browser, outside, run_all, wait_for
from medsoft_nb.core.images import read_image, write_image
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.phantom.spine import phantom

pytestmark = pytest.mark.slow
root = Path(__file__).parent.parent

READER = '''from pathlib import Path
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.apps.reader import ReaderStudy
if not Path('m/manifest.csv').exists(): make_benchmark('phantom-tumour', 'm', n_healthy=2, n_diseased=12, seed=3)
m = Manifest.load('m/manifest.csv'); diseased = m.where(label=m.diseases)
ReaderStudy(diseased.rows(range(6)), diseased.rows(range(6, 12)), 'study', n=6, repeated=0).show()'''


@pytest.fixture(scope='module')
def jupyter(tmp_path_factory):
    "One JupyterLab and one browser for all tests; in the dark, where texts are harder to read"
    need_browser()
    folder = tmp_path_factory.mktemp('lab')
    with jupyterlab(folder, 'JupyterLab Dark') as address, browser(tmp_path_factory.mktemp('browser')) as driver:
        yield SimpleNamespace(folder=folder, address=address, driver=driver)


@pytest.fixture
def lab(jupyter, request):
    "A folder for a test, and what opens a notebook in it and runs all its cells"
    folder = jupyter.folder / request.node.name
    folder.mkdir()
    jupyter.driver.set_window_size(1400, 1000)

    def run_notebook(name):
        jupyter.driver.get(jupyter.address(f'{folder.name}/{name}'))
        run_all(jupyter.driver)

    return SimpleNamespace(folder=folder, driver=jupyter.driver, run=run_notebook)


def write_cell(path, source):
    "A notebook of one cell"
    kernel = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata={'kernelspec': kernel}), path)


STUDIO = "from medsoft_nb.apps.panel import Studio\nStudio(out='kept')"


def on_canvas(canvas, x, y):
    "Where a pixel of the image lies, from the middle of the canvas"
    scale, left, top = (float(canvas.get_attribute(f'data-{name}')) for name in ('scale', 'x', 'y'))
    return round(left + x * scale - canvas.size['width'] / 2), round(top + y * scale - canvas.size['height'] / 2)


def test_draw_generate_compare_keep(lab):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    folder, driver = lab.folder, lab.driver
    write_cell(folder / 'studio.ipynb', STUDIO)
    lab.run('studio.ipynb')
    panel = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.ms-studio'))[0]

    def find(css):
        return panel.find_element(By.CSS_SELECTOR, css)

    canvas = find('canvas')
    wait_for(lambda: canvas.size['width'] > 200)
    driver.execute_script('arguments[0].scrollIntoView({block: "center"})', panel)
    assert '[object' not in panel.text
    find('button.go').click()
    wait_for(lambda: 'no mask yet' in find('.say').text)  # said in words
    drag = ActionChains(driver).move_to_element_with_offset(canvas, *on_canvas(canvas, 49, 26)).click_and_hold()
    for dx, dy in ((12, 5), (12, -8), (-16, 12), (14, 6)):
        drag = drag.move_by_offset(dx, dy)
    drag.release().perform()
    wait_for(lambda: 'no mask' not in find('.say').text)
    driver.save_screenshot(str(folder / 'studio-mask.png'))
    find('button.go').click()
    wait_for(lambda: 'outer edge' in find('.numbers').text)
    assert (
        dict(
            zip(
                [e.text for e in panel.find_elements(By.CSS_SELECTOR, '.numbers dt')],
                [e.text for e in panel.find_elements(By.CSS_SELECTOR, '.numbers dd')],
            )
        )['pixels changed outside the mask']
        == '0'
    )
    slider = find('input.slide')
    slider.click()
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)

    def slides():
        return driver.execute_script("return performance.getEntriesByName('medsoft-slide').map(e => e.duration)")

    assert wait_for(slides)  # the picture moved with it
    driver.save_screenshot(str(folder / 'studio-compare.png'))
    wait_for(find('button.many').is_enabled)
    find('button.many').click()
    wait_for(lambda: len(panel.find_elements(By.CSS_SELECTOR, '.thumbs img')) == 5)
    thumbs = panel.find_elements(By.CSS_SELECTOR, '.thumbs button')
    assert len({thumb.get_attribute('title') for thumb in thumbs}) == 5  # each with a seed of its own
    assert [thumb.get_attribute('aria-pressed') for thumb in thumbs] == ['false'] * 4 + ['true']
    canvas.click()
    canvas.send_keys('k')  # by key
    wait_for(lambda: 'Kept as' in find('.say').text or find('button.keep').get_attribute('disabled'))
    driver.save_screenshot(str(folder / 'studio-kept.png'))
    m = wait_for(lambda: (folder / 'kept/manifest.csv').is_file() and Manifest.load(folder / 'kept/manifest.csv'))
    assert len(m) == 1 and m.df.origin[0] == 'synthetic' and m.df.prompt[0] and m.df.source_id[0] == 'phantom-ct-5'
    assert outside(driver) == []


def test_every_tool_on_an_own_image(lab):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    folder, driver = lab.folder, lab.driver
    own = phantom(8, 'ct', size=192).image[:, :160]
    write_image(folder / 'own spine.png', np.uint8(own * 255))
    write_image(folder / 'small.png', np.ones((20, 20), np.uint8))
    lesion = np.zeros(own.shape, bool)
    lesion[60:80, 70:95] = True
    write_image(folder / 'lesion.png', np.uint8(lesion * 255))
    write_cell(folder / 'studio.ipynb', STUDIO)
    volume = np.full((24, 60, 50), -1000, np.int16)
    volume[:, 10:50, 10:40] = np.linspace(-100, 1000, 40)[None, :, None]
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([3.0, 1, 1, 1])), folder / 'scan.nii.gz')
    lab.run('studio.ipynb')
    panel = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.ms-studio'))[0]

    def find(css):
        return panel.find_element(By.CSS_SELECTOR, css)

    def wait_for_message(words):
        return wait_for(lambda: words in find('.say').text)

    canvas = find('canvas')
    wait_for(lambda: canvas.size['width'] > 200)
    driver.execute_script('arguments[0].scrollIntoView({block: "center"})', panel)

    def press(*keys):
        return [canvas.send_keys(k) for k in keys]

    def manifest():
        return Manifest.load(folder / 'kept/manifest.csv')

    def keep(n):
        "Paint, keep, and give the mask back"
        find('button.go').click()
        wait_for_message('Painted')
        find('button.keep').click()
        wait_for_message('Kept as')
        wait_for(lambda: len(manifest()) == n)
        return manifest().lesion_mask(n - 1)

    find('input.upload').send_keys(str(folder / 'small.png'))
    wait_for_message('20 x 20 pixels')
    find('input.upload').send_keys(str(folder / 'own spine.png'))
    wait_for(lambda: 'own spine' in find('.page').text)
    pixel = find('input[name=spacing]')
    assert pixel.is_enabled() and pixel.get_attribute('value') == ''
    pixel.send_keys('0.8', Keys.TAB)
    find('input.upload_mask').send_keys(str(folder / 'small.png'))
    wait_for_message('mask has 20 rows')
    find('button.place').click()
    canvas.click()
    wait_for_message('no structures yet')
    find('button.structure').click()  # one is made by a click, and a lesion is placed in it
    whole = phantom(8, 'ct', size=192).structures[:, :160] == 2
    y, x = (int(v.mean()) for v in np.nonzero(whole))
    click = ActionChains(driver).move_to_element_with_offset(canvas, *on_canvas(canvas, x, y)).click()
    click.perform()
    wait_for(lambda: find('.say').text == '')
    find('button.place').click()
    click.perform()
    time.sleep(1)
    assert find('.say').text == ''
    find('button.clear').click()
    find('input[name=steps]').send_keys(Keys.HOME)
    wait_for(lambda: find('input[name=steps]+output').text == '5')

    find('input.upload_mask').send_keys(str(folder / 'lesion.png'))
    wait_for(lambda: find('.say').text == '')
    assert (keep(1) == lesion).all()  # a mask of one's own
    assert manifest().df.spacing_mm[0] == 0.8
    assert (
        read_image(folder / 'kept' / manifest().df.image[0])[~(manifest().mask(0, 'soft_mask') > 0)]
        == np.uint8(own * 255)[~(manifest().mask(0, 'soft_mask') > 0)]
    ).all()

    find('button.clear').click()
    find('button.box').click()  # a box, by mouse
    driver.execute_script('arguments[0].scrollIntoView({block: "center"})', canvas)
    find('button.larger').click()  # zoomed and moved, the box still lies where it is drawn
    find('button.move').click()
    ActionChains(driver).move_to_element(canvas).click_and_hold().move_by_offset(30, -20).release().perform()
    find('button.box').click()
    (x, y), (to_x, to_y) = on_canvas(canvas, 60, 81), on_canvas(canvas, 100, 111)
    drag = ActionChains(driver).move_to_element_with_offset(canvas, x, y).click_and_hold()
    drag.move_by_offset(to_x - x, to_y - y).release().perform()
    find('button.fit').click()
    box = keep(2)
    rows, columns = np.nonzero(box)
    assert (
        abs(box.sum() / (np.pi * 20 * 15) - 1) < 0.15
        and abs(rows.mean() - own.shape[0] / 2) < 3
        and abs(columns.mean() - own.shape[1] / 2) < 3
    )

    find('button.undo').click()
    find('button.undo').click()  # the box, and Clear
    find('button.go').click()
    wait_for_message('Painted')
    find('button.keep').click()
    wait_for_message('kept already')  # the same again is not kept twice
    seed = find('input[name=seed]')
    seed.clear()
    seed.send_keys('7', Keys.TAB)
    assert (keep(3) == lesion).all()
    find('button.clear').click()
    find('button.brush').click()
    press('m', *[Keys.ARROW_RIGHT] * 3, ' ', Keys.ARROW_DOWN, ' ')  # by keyboard
    drawn = keep(4)
    rows, columns = np.nonzero(drawn)
    assert 50 < drawn.sum() < 120 and abs(columns.mean() - own.shape[1] / 2 - 6) < 2
    press('d')
    assert find('button.difference').get_attribute('aria-pressed') == 'true'
    driver.save_screenshot(str(folder / 'studio-dark.png'))
    found, n = low_contrast(driver, panel)
    assert n > 30 and found == []

    find('button.next').click()
    wait_for(lambda: 'phantom-ct-5' in find('.page').text)
    time.sleep(0.5)
    find('button.place').click()
    at = phantom(5, 'ct')
    y, x = (int(v.mean()) for v in np.nonzero(at.structures == 2))
    ActionChains(driver).move_to_element_with_offset(canvas, *on_canvas(canvas, x, y)).click().perform()
    wait_for(lambda: 'Draw' not in find('.say').text)
    placed = keep(5)
    assert placed.any() and (at.structures[placed] == 2).all()  # in the vertebra that was clicked
    find('input[name=steps]').send_keys(Keys.END)
    wait_for(lambda: find('input[name=steps]+output').text == '50')
    find('button.many').click()
    wait_for(lambda: find('progress').get_attribute('value') not in ('0', None))
    find('button.stop').click()
    wait_for_message('Stopped')
    assert len(panel.find_elements(By.CSS_SELECTOR, '.thumbs img')) == 1 and len(manifest()) == 5

    find('input.upload').send_keys(str(folder / 'scan.nii.gz'))  # a volume, by slice and plane
    wait_for(lambda: find('.slices output').text == '13 / 24')
    canvas.send_keys(Keys.PAGE_DOWN)
    wait_for(lambda: 'sagittal_0013' in find('.page').text)
    Select(find('select[name=modality]')).select_by_value('CT')  # has the windows of Hounsfield units
    wait_for(lambda: 'bone' in find('select[name=window]').text)
    Select(find('select[name=window]')).select_by_value('bone')
    grey = 'const c = arguments[0]; return c.getContext("2d").getImageData(c.width / 2, c.height / 2, 1, 1).data[0]'
    bone = driver.execute_script(grey, canvas)
    find('input[name=level]').send_keys(*[Keys.ARROW_RIGHT] * 20)
    wait_for(lambda: driver.execute_script(grey, canvas) < bone)  # a higher level is darker
    assert find('select[name=window]').get_attribute('value') == ''
    Select(find('select[name=plane]')).select_by_value('axial')
    wait_for(lambda: find('.slices output').text == '26 / 50')
    driver.save_screenshot(str(folder / 'studio-volume.png'))


def test_quickstart_runs_in_jupyterlab(lab):
    from selenium.webdriver.common.by import By

    folder, driver = lab.folder, lab.driver
    nb = nbformat.read(root / 'nbs/tutorials/quickstart.ipynb', 4)
    for c in nb.cells:
        if c.cell_type == 'code':
            c.outputs, c.execution_count = [], None
    nbformat.write(nb, folder / 'quickstart.ipynb')
    lab.run('quickstart.ipynb')
    n = sum(c.cell_type == 'code' for c in nb.cells)

    def prompts():
        found = driver.find_elements(By.CSS_SELECTOR, '.jp-CodeCell .jp-InputPrompt')
        return [element.get_attribute('textContent').strip() for element in found]

    wait_for(lambda: (folder / 'runs/quickstart/image-painted.png').is_file())
    wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator[data-status="idle"]'))
    every_cell_ran = len(prompts()) == n and all(re.fullmatch(r'\[\d+\]:', p) for p in prompts())
    assert every_cell_ran, prompts()
    assert len(driver.find_elements(By.CSS_SELECTOR, '.jp-OutputArea-output img')) >= 4
    red = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"] .ansi-red-fg'
    error = '.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]'
    assert not driver.find_elements(By.CSS_SELECTOR, f'{red}, {error}')


def test_a_reader_answers_by_keyboard_and_resumes(lab):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    folder, driver = lab.folder, lab.driver
    driver.set_window_size(1280, 900)
    write_cell(folder / 'read.ipynb', READER)

    def answers():
        return [json.loads(l) for l in (folder / 'study/reader-1.jsonl').read_text().splitlines()]

    lab.run('read.ipynb')
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
    driver.save_screenshot(str(folder / 'reader.png'))
    src = driver.find_element(By.CSS_SELECTOR, '.ms-reader img').get_attribute('src')
    assert src.startswith('data:image/png') and 'real' not in driver.find_element(
        By.CSS_SELECTOR, '.ms-reader'
    ).get_attribute('outerHTML').split('src=')[0].lower().replace('surely real', '').replace(
        'rather real', ''
    ).replace('reader', '')
    lab.run('read.ipynb')  # the page is loaded anew, the study goes on
    box = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.ms-reader'))[0]
    wait_for(lambda: count() == '2 of 6')
    assert driver.find_element(By.CSS_SELECTOR, '.ms-reader img').get_attribute('src') == src
    for k in range(2, 6):
        box.send_keys('2')
        wait_for(lambda: count() == f'{k + 1} of 6')
    assert 'Thank you' in driver.find_element(By.CSS_SELECTOR, '.ms-reader .end').text


def test_the_page_of_its_own_wants_its_token(tmp_path):
    port = free_port()
    address = f'http://127.0.0.1:{port}/'
    process = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'from medsoft_nb.apps.cli import main; main()',
            'studio',
            '--port',
            str(port),
            '--out',
            str(tmp_path / 'kept'),
        ],
        cwd=tmp_path,
        env={**os.environ, 'MEDSOFT_STUDIO_TOKEN': 'secret'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:

        def answer(url):
            try:
                return urllib.request.urlopen(url, timeout=60)
            except urllib.error.HTTPError as e:
                return e

        wait_for(lambda: answer(address))
        refused = answer(address)
        assert (
            refused.status in (401, 403) or 'login' in refused.geturl() or 'token' in refused.read().decode().lower()
        )
        page = answer(address + '?token=secret')
        assert page.status == 200 and 'login' not in page.geturl()
        need_browser()
        from selenium.webdriver.common.by import By

        with browser(tmp_path) as driver:
            driver.get(address + '?token=secret')
            panel = wait_for(lambda: driver.find_elements(By.CSS_SELECTOR, '.ms-studio'))[0]
            wait_for(lambda: panel.find_element(By.CSS_SELECTOR, 'canvas').size['width'] > 200)
            panel.find_element(By.CSS_SELECTOR, 'button.go').click()  # it answers
            wait_for(lambda: 'no mask yet' in panel.find_element(By.CSS_SELECTOR, '.say').text)
            assert outside(driver) == [] and low_contrast(driver, panel)[0] == []
            driver.save_screenshot(str(tmp_path / 'page.png'))
    finally:
        process.terminate()
        process.wait(60)
