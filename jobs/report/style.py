"""What does the page look like? One sheet, light and dark by the reader's setting, narrow and wide."""

STYLE = """
:root{color-scheme:light dark;
--ground:#f5f6f8;--paper:#fff;--ink:#14171c;--dim:#5a6270;--pale:#8b93a1;--rule:#e3e6eb;--soft:#eef0f4;
--blue:#2a63d4;--blue-2:#8fb3f2;--teal:#0c8f86;--purple:#7650c9;--purple-2:#bda8ea;--orange:#d5700a;--green:#218a4c;
--red:#c9303e;--red-2:#eb9aa1;--grey:#8a93a3;--grey-2:#b3bac6;--grey-3:#d0d5dd;
--sans:ui-sans-serif,-apple-system,BlinkMacSystemFont,"Segoe UI",Inter,Roboto,"Helvetica Neue",Arial,sans-serif;
--mono:ui-monospace,SFMono-Regular,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace}
@media (prefers-color-scheme:dark){:root{
--ground:#0e1014;--paper:#161920;--ink:#e9ebef;--dim:#a2a9b6;--pale:#747d8c;--rule:#282d37;--soft:#1e222b;
--blue:#6c9ffb;--blue-2:#35558f;--teal:#3dbdb2;--purple:#a98af0;--purple-2:#594a86;--orange:#f2a04c;--green:#53c27f;
--red:#f2717c;--red-2:#8c434b;--grey:#7d8696;--grey-2:#596170;--grey-3:#3d4450}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 var(--sans);-webkit-font-smoothing:antialiased;
-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:44px 24px 32px;display:grid;gap:18px;grid-template-columns:minmax(0,1fr)}
h1,h3,p,figure,dl,dd,ol,ul,pre{margin:0;padding:0}ol,ul{list-style:none}
small{color:var(--dim);font-size:13px}
code,pre{font-family:var(--mono)}code{font-size:.92em}
header{padding:0 2px 6px}
.over{font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--pale);font-weight:600}
h1{font-size:38px;line-height:1.2;letter-spacing:-.022em;font-weight:680;overflow-wrap:anywhere;margin:4px 0 8px}
.lead{font-size:17px;color:var(--dim);max-width:72ch}.lead b,.lead code{color:var(--ink);font-weight:600}
.pill{display:inline-block;font:600 12px/1 var(--sans);letter-spacing:.01em;padding:5px 10px;border-radius:99px;
vertical-align:middle;background:color-mix(in srgb,var(--c,var(--grey)) 15%,transparent);color:var(--c,var(--dim));
font-style:normal;white-space:nowrap}
h1 .pill{margin-left:14px;position:relative;top:-4px}
.finished{--c:var(--green)}.running{--c:var(--blue)}.failed,.died{--c:var(--red)}
.stopped,.interrupted{--c:var(--orange)}
.card,.tiles{background:var(--paper);border:1px solid var(--rule);border-radius:14px}
.card{padding:20px 22px 22px}
h3{font-size:16px;line-height:1.35;font-weight:650;letter-spacing:-.008em;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:1.35fr repeat(2,1fr);overflow:hidden;gap:1px;background:var(--rule)}
.tiles>div{padding:17px 22px 16px;background:var(--paper)}
.tiles dt{font-size:13px;color:var(--dim)}
.tiles dd{font-size:27px;line-height:1.25;font-weight:640;letter-spacing:-.022em;font-variant-numeric:tabular-nums}
.tiles small{display:block;margin-top:1px;font-size:12.5px;line-height:1.4}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:18px}
figcaption{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 10px}
.legend{display:flex;gap:16px;margin-left:auto;font-size:13px;color:var(--dim)}
.legend i,.tip i{display:inline-block;width:14px;height:0;border-top:2.5px solid;border-radius:2px;
vertical-align:middle;
margin:-2px 7px 0 0}
.legend i.dots{width:7px;border-top-width:7px;border-radius:50%}
.plot p{color:var(--dim);padding:28px 0}
.area{position:relative;height:190px;margin:18px 4px 24px 46px;touch-action:pan-y}.tall .area{height:330px}
.area svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.area path{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round;stroke-linecap:round}
.grid{stroke:var(--rule);stroke-width:1}.mark{stroke-width:1.25;stroke-dasharray:4 5;opacity:.75}
path.line{stroke-width:2.1}path.faint{stroke-width:1;opacity:.3}path.dots{stroke-width:7;opacity:1}
.area b{position:absolute;font:500 11.5px/1 var(--sans);color:var(--pale);font-variant-numeric:tabular-nums}
.area b.y{right:100%;margin-right:9px;transform:translateY(50%)}
.area b.x{top:100%;margin-top:9px;transform:translateX(-50%)}
.area b.unit{left:0;transform:none}
.area em{position:absolute;font:500 11.5px/1.2 var(--sans);pointer-events:none;background:var(--paper);padding:1px 4px;
border-radius:4px;white-space:nowrap}
em.upright{top:2px;margin:0 5px}em.across{right:0;margin-bottom:4px}em:empty{display:none}
.hair,.tip{position:absolute;pointer-events:none;opacity:0;transition:opacity .1s}.read .hair,.read .tip{opacity:1}
.hair{top:0;bottom:0;width:1px;background:var(--pale)}
.tip{top:8px;background:var(--ink);color:var(--paper);font-size:12.5px;line-height:1.5;padding:7px 11px;
border-radius:8px;
white-space:nowrap;z-index:2;font-variant-numeric:tabular-nums}
.tip b{position:static;color:inherit;font-size:12px;opacity:.75;line-height:1.6}
.bar{display:flex;height:9px;border-radius:5px;overflow:hidden;background:var(--soft);flex:1;gap:1px}
.bar.big{height:30px;border-radius:8px;margin:16px 0 18px;gap:2px}
.bar i{display:block;min-width:0}
i.blue{background:var(--blue)}i.blue-2{background:var(--blue-2)}i.teal{background:var(--teal)}
i.green{background:var(--green)}
i.purple{background:var(--purple)}i.purple-2{background:var(--purple-2)}i.orange{background:var(--orange)}
i.red{background:var(--red)}i.red-2{background:var(--red-2)}i.grey{background:var(--grey)}
i.grey-2{background:var(--grey-2)}
i.grey-3{background:var(--grey-3)}
i.hatch{background:repeating-linear-gradient(135deg,var(--pale) 0 2px,transparent 2px 5px)}
.swatch{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:10px;vertical-align:-1px}
.split{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:14px 44px}
.ranks{display:flex;flex-direction:column;gap:9px;padding-top:8px}
.ranks li{display:flex;align-items:center;gap:12px}.ranks span{font-size:13px;color:var(--dim);width:52px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
td,th{padding:5px 0;text-align:left;border-top:1px solid var(--rule);font-weight:400;vertical-align:top}
tbody tr:first-child td,tbody tr:first-child th{border-top:0}
.spent td+td,.steps td+td+td,.steps th+th+th{text-align:right;padding-left:14px;white-space:nowrap}
.spent td:last-child{color:var(--dim)}
.steps th{color:var(--pale);font-size:12px;border:0}.steps td:first-child{width:44px}
.steps thead+tbody tr:first-child td{border-top:1px solid var(--rule)}
.range{width:60%}.range div{position:relative;height:20px;margin-left:6px}
.range i{position:absolute;top:7px;height:6px;border-radius:3px;background:var(--blue-2)}
.range b{position:absolute;top:4px;width:12px;height:12px;margin-left:-6px;border-radius:50%;background:var(--blue);
border:2px solid var(--paper)}
.lanes{display:grid;gap:16px;margin-top:14px}
.said{display:flex;flex-wrap:wrap;align-items:center;gap:2px 10px;font-size:13.5px}.said b{font-weight:600}
.said span{color:var(--dim)}.said .pill{margin-left:auto;font-size:11.5px;padding:4px 9px}
.lane{position:relative;height:10px;border-radius:5px;background:var(--soft);margin-top:7px}
.lane i{position:absolute;top:0;bottom:0;border-radius:5px;background:var(--c,var(--grey))}
.lane .cross{width:4px;margin-left:-2px;top:-4px;bottom:-4px;background:var(--red);border-radius:2px;
box-shadow:0 0 0 2px var(--paper)}
.death{font-size:13px;color:var(--red);margin-top:6px}
.failure{border-color:color-mix(in srgb,var(--red) 45%,var(--rule))}.failure h3{color:var(--red)}
summary{cursor:pointer;font-size:13px;color:var(--dim);margin-top:10px}
pre{background:var(--soft);border-radius:10px;padding:14px 16px;margin-top:12px;font-size:13px;line-height:1.55;
overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere}
.sample b{font-weight:700;color:var(--blue)}
.config{columns:2;column-gap:44px;margin-top:14px}
.config table{break-inside:avoid;margin:0 0 14px;table-layout:fixed}
caption{text-align:left;font:600 12px/1.8 var(--mono);color:var(--pale)}
.config th,.config td{color:var(--pale);overflow-wrap:anywhere;padding-right:10px}.config th{width:36%}
.config td{font-family:var(--mono);font-size:12.5px}
.config td:last-child{padding-right:0;width:36%;font-family:var(--sans)}
.chosen th,.config .chosen td{color:var(--ink)}.config .chosen td:nth-child(2){font-weight:600}
.config .chosen td:last-child{color:var(--dim)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:14px 24px;margin-top:14px}
.facts dt{font-size:12.5px;color:var(--dim)}.facts dd{font-size:14px;overflow-wrap:anywhere}
footer{color:var(--pale);font-size:13px;padding:8px 2px}footer code{color:var(--dim);overflow-wrap:anywhere}
@media (max-width:720px){
main{padding:26px 14px;gap:12px}h1{font-size:28px}h1 .pill{margin-left:10px;top:-3px}.lead{font-size:15.5px}
.card{padding:16px}.tiles{grid-template-columns:1fr 1fr}.tiles>div{padding:13px 16px}
.tiles>div:first-child{grid-column:1/-1}
.tiles>div:nth-child(6){grid-column:1/-1}
.tiles dd{font-size:23px}.pair,.split{grid-template-columns:minmax(0,1fr);gap:12px}.config{columns:1}
.facts{grid-template-columns:1fr 1fr}.tall .area{height:240px}.area{margin-left:40px}.area b.odd{display:none}
.legend{margin-left:0;width:100%}
.range{width:40%}.said .pill{margin-left:0}}
@media print{body{background:#fff}.card,.tiles{break-inside:avoid}}
"""
