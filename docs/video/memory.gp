# gnuplot memory.gp, in this folder, draws memory.svg
set terminal svg size 900,480 font "sans,13" background "#ffffff" noenhanced
set output "memory.svg"
set title "Peak memory of the rank that needs most\n6.84M parameters, bf16, training step"
set xlabel "tokens of a sequence" offset 0,0.4
set ylabel "MiB"
set format y "%.3g"
set key below Left reverse
set grid lt 1 lw 1 lc rgb "#dddddd"
set border 3 lc rgb "#808080"
set tics nomirror
set logscale x 2
set xtics ("2048" 2048, "4096" 4096, "8192" 8192, "16384" 16384)
set xrange [1706.67:19660.8]
set yrange [0:129.588]
plot NaN notitle, \
  "memory.dat" using 1:($2 > 0 ? $2 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#0072b2" title "dsp=8", \
  "memory.dat" using 1:($11 > 0 ? $11 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#0072b2" notitle, \
  "memory.dat" using 1:($3 > 0 ? $3 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#d55e00" title "dsp=8,stream=ring", \
  "memory.dat" using 1:($12 > 0 ? $12 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#d55e00" notitle, \
  "memory.dat" using 1:($4 > 0 ? $4 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#009e73" title "dsp=8,stream=gather", \
  "memory.dat" using 1:($13 > 0 ? $13 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#009e73" notitle, \
  "memory.dat" using 1:($5 > 0 ? $5 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#cc79a7" title "sp=8", \
  "memory.dat" using 1:($14 > 0 ? $14 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#cc79a7" notitle, \
  "memory.dat" using 1:($6 > 0 ? $6 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#e69f00" title "sp=8,exchange=ring", \
  "memory.dat" using 1:($15 > 0 ? $15 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#e69f00" notitle, \
  "memory.dat" using 1:($7 > 0 ? $7 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#56b4e9" title "sp=8,exchange=ulysses", \
  "memory.dat" using 1:($16 > 0 ? $16 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#56b4e9" notitle, \
  "memory.dat" using 1:($8 > 0 ? $8 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#7f7f7f" title "sp=8,stream=gather", \
  "memory.dat" using 1:($17 > 0 ? $17 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#7f7f7f" notitle, \
  "memory.dat" using 1:($9 > 0 ? $9 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#000000" title "tp=8,reduction=scatter", \
  "memory.dat" using 1:($10 > 0 ? $10 / 1048576 : NaN) with linespoints lw 2 pt 7 ps 0.6 lc rgb "#0072b2" title "tsp=8", \
  "memory.dat" using 1:($19 > 0 ? $19 / 1048576 : NaN) with lines lw 1 dt 2 lc rgb "#0072b2" notitle, \
  keyentry with lines lw 1 dt 2 lc rgb "#404040" title "in flight (stream, exchange)"
