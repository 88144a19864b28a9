"""Write reports: self-contained HTML files that can be mailed, opened offline and printed.

``page`` defines the parts of a report and renders the file; the other modules build a report from
a profile, a fleet, a backtest, an estimate or a comparison. Plots are drawn in the browser by
plotly.js (its cartesian bundle, MIT, which ships with this package); nothing is fetched.
"""
