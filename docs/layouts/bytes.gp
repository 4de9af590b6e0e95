# gnuplot bytes.gp, in this folder, draws bytes.svg
set terminal svg size 900,480 font "sans,13" background "#ffffff" noenhanced
set output "bytes.svg"
set title "Bytes that a rank sends or reads in place in a step\n8.66M parameters, bf16, training step"
set xlabel "tokens of a sequence" offset 0,0.4
set ylabel "MiB"
set format y "%.3g"
set key below Left reverse
set grid lt 1 lw 1 lc rgb "#dddddd"
set border 3 lc rgb "#808080"
set tics nomirror
set logscale x 2
set xtics ("512" 512, "1024" 1024, "2048" 2048, "4096" 4096, "8192" 8192)
set xrange [426.667:9830.4]
set logscale y 2
set yrange [11.0586:526.028]
plot NaN notitle, \
  "bytes.dat" using 1:($2 > 0 ? $2 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#0072b2" title "tsp=8", \
  "bytes.dat" using 1:($3 > 0 ? $3 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#d55e00" title "tp=8", \
  "bytes.dat" using 1:($4 > 0 ? $4 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#009e73" title "tp=8,reduction=scatter", \
  "bytes.dat" using 1:($5 > 0 ? $5 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#cc79a7" title "tp=4,sp=2,zero=0", \
  "bytes.dat" using 1:($6 > 0 ? $6 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#e69f00" title "tp=2,sp=4,zero=0", \
  "bytes.dat" using 1:($7 > 0 ? $7 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#56b4e9" title "tp=4,sp=2", \
  "bytes.dat" using 1:($8 > 0 ? $8 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#7f7f7f" title "tp=2,sp=4", \
  "bytes.dat" using 1:($9 > 0 ? $9 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#000000" title "sp=8,stream=gather"
