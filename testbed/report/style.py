"""The style sheet of the page."""

CSS = """
:root { color-scheme: light dark; --bg: #ffffff; --card: #f5f6f9; --text: #1d2330; --muted: #5b6472;
  --line: #d9dde4; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171e; --card: #1c212b; --text: #e8eaf0; --muted: #a3abb8;
  --line: #343b49; --accent: #6cb8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 28px 20px 60px; }
header h1 { margin: 0; font-size: 28px; letter-spacing: -0.02em; }
header p { margin: 2px 0 20px; color: var(--muted); }
h2 { font-size: 19px; margin: 40px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 10px; }
.tiles div { background: var(--card); border-radius: 10px; padding: 12px 14px; display: flex; flex-direction: column; }
.tiles span { color: var(--muted); font-size: 12px; }
.tiles b { font-size: 25px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles small { color: var(--muted); font-size: 12px; }
.how { color: var(--muted); margin: 14px 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); vertical-align: bottom; }
th, td { padding: 6px 9px 6px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.n, td.n { text-align: right; padding: 6px 4px 6px 7px; }
td:first-child { font-weight: 600; }
picture, img { display: block; width: 100%; height: auto; }
.note { color: var(--muted); font-size: 13px; margin: 8px 0 0; }
ul { margin: 8px 0 14px; padding-left: 20px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; font-size: 13px; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { main { max-width: none; } section { break-inside: avoid; } }
"""
