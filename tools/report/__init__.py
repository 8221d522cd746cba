"""The report: one HTML page, without a network, of a run, several runs, or a whole benchmark.

gather.py   run folders -> Run and Entry objects (scores joined by sample name, fusions)
clips.py    the hardest test clips, as coordinates that a canvas can draw
page.py     those objects -> compact JSON -> page/index.html with its styles and scripts inside
page/       HTML, CSS and JavaScript as plain files; no library
"""
