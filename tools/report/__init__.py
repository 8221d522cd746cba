"""The report: a self-contained HTML page about a run, several runs, or a whole benchmark.

gather.py     run folders -> Run and Entry objects (scores joined by sample name, fusions)
clips.py      the hardest test clips, as coordinates for a canvas
page.py       these objects -> compact JSON -> page/body.html with styles and scripts inlined
page/         HTML, CSS and JavaScript, without a library
overview.py   all runs below a folder on one page
intervals.py  the chart of tools.compare
"""
