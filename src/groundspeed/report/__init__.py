"""Reports: one HTML file with everything in it, to be mailed, opened anywhere, and printed.

``page`` knows what a report is made of and writes the file; the other modules turn a profile, a
fleet, a backtest, an estimate or a comparison into one. Plots are drawn in the browser by
plotly.js (its cartesian bundle, MIT, which ships with this package); nothing is fetched.
"""
