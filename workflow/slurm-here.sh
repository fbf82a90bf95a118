#!/bin/sh
# A SLURM of one node on this machine, to try the profile `slurm` without a cluster.
#
#   eval "$(workflow/slurm-here.sh start)"    # start it, and tell this shell where it is
#   workflow/slurm-here.sh status             # its partitions and jobs, and the jobs that ended
#   workflow/slurm-here.sh stop               # end its jobs and daemons; configuration and logs stay
#
# It needs no systemd and no cgroups, touches no service of the system, and runs as root or as any user (then only
# for jobs of this user). Everything that it writes is in one folder. Nothing limits what a job really takes.
#
#   SLURM_HERE         the folder; /tmp/slurm-here-USER otherwise. Its path must be short
#   SLURM_HERE_PORT    the first of two free ports; 16817 otherwise
#   SLURM_HERE_CPUS    processors to hand out; those of the machine otherwise. More than there are is allowed
#   SLURM_HERE_MEMORY  MB to hand out; 9/10 of the machine's otherwise
#   SLURM_HERE_GPUS    GPUs to hand out; 0 otherwise. They are files of the folder that SLURM counts
set -eu

user=$(id -un)
folder=${SLURM_HERE:-/tmp/slurm-here-$user}
port=${SLURM_HERE_PORT:-16817}
real=$(getconf _NPROCESSORS_ONLN)
cpus=${SLURM_HERE_CPUS:-$real}
gpus=${SLURM_HERE_GPUS:-0}
memory=${SLURM_HERE_MEMORY:-$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)}
PATH=$(echo "$PATH:/usr/sbin:/sbin" | sed "s|$folder/bin:||g")
export SLURM_CONF="$folder/slurm.conf"

die() { echo "slurm-here: $*" >&2; exit 1; }

check() {
    missing=
    for pair in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client; do
        command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
    done
    [ -z "$missing" ] || die "packages are not installed. On Debian or Ubuntu: apt-get install$missing"
    [ ${#folder} -le 80 ] || die "the path $folder is too long for a socket. Set SLURM_HERE to a shorter one."
}

alive() {
    [ -s "$folder/$1.pid" ] || return 1
    pid=$(cat "$folder/$1.pid" 2>/dev/null) || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]
}

configure() {
    mkdir -p "$folder/state" "$folder/spool" "$folder/munge" "$folder/bin"
    chmod 755 "$folder" "$folder/munge"
    # Snakemake's plugin takes SLURM_CONF away before it calls srun
    printf '#!/bin/sh\nSLURM_CONF="%s" exec "%s" "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$folder/bin/srun"
    chmod 755 "$folder/bin/srun"
    [ -s "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
    [ "$cpus" -le "$real" ] && parameters= || parameters=SlurmdParameters=config_overrides
    [ "$gpus" -eq 0 ] && types= || types=GresTypes=gpu
    [ "$gpus" -eq 0 ] && gres= || gres=Gres=gpu:$gpus
    : > "$folder/gres.conf"
    for i in $(seq 0 $((gpus - 1))); do
        touch "$folder/gpu$i"
        echo "Name=gpu File=$folder/gpu$i" >> "$folder/gres.conf"
    done
    # SLURM of 23.02 and later can do without cgroups; an older one looks for them, and does not use them
    case "$(slurmd -V)" in
        *' 2'[0-2].*) echo 'CgroupAutomount=no' ;;
        *) echo 'CgroupPlugin=disabled' ;;
    esac > "$folder/cgroup.conf"
    cat > "$SLURM_CONF" <<END
ClusterName=here
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
MinJobAge=3600
KillWait=5
$parameters
$types
NodeName=here NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory $gres State=UNKNOWN
PartitionName=main Nodes=here Default=YES MaxTime=INFINITE State=UP
END
}

start() {
    check
    if ! alive slurmctld; then
        configure
        alive munged || munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
            --pid-file="$folder/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" >&2
        # A state of its own for each start: no job of an earlier one comes back
        slurmctld -c -f "$SLURM_CONF" >&2 || die "slurmctld did not start; see $folder/slurmctld.log"
        slurmd -c -f "$SLURM_CONF" >&2 || die "slurmd did not start; see $folder/slurmd.log"
    fi
    tries=0
    until sinfo -h -o %T 2>/dev/null | grep -q -E 'idle|mixed|allocated'; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || { stop; die "the node did not come up; see slurmctld.log and slurmd.log in $folder"; }
        sleep 0.5
    done
    echo "SLURM is up: $cpus processors, $memory MB, $gpus GPUs; its files are in $folder" >&2
    echo "export SLURM_CONF='$SLURM_CONF' PATH='$folder/bin':\"\$PATH\""
}

end() {
    alive "$1" || return 0
    pid=$(cat "$folder/$1.pid")
    kill "$pid"
    tries=0
    while alive "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 40 ] || { kill -9 "$pid"; break; }
        sleep 0.25
    done
    rm -f "$folder/$1.pid"
}

stop() {
    alive slurmctld && scancel --user="$user" 2>/dev/null || :
    tries=0
    while alive slurmctld && [ -n "$(squeue -h -t R,CG 2>/dev/null)" ] && [ $tries -lt 40 ]; do
        tries=$((tries + 1))
        sleep 0.5
    done
    end slurmd
    end slurmctld
    end munged
    echo "SLURM is down; its configuration and logs are in $folder" >&2
}

status() {
    alive slurmctld || die "no SLURM in $folder. Start it: $0 start"
    sinfo -o '%P %a %D nodes, %T, processors %C (allocated/idle/other/all), %m MB, %G'
    echo
    squeue -o '%i %k %T %M %R'
    echo
    [ ! -s "$folder/jobs.txt" ] || cat "$folder/jobs.txt"
}

case "${1:-}" in
    start | stop | status) "$1" ;;
    *) die "'${1:-}' is none of start, stop, status." ;;
esac
