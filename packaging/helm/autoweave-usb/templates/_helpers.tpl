{{/*
At most 38 characters, so that `-device-plugin` makes it 52: a StatefulSet's pods carry its name and 11 more characters in a
label, which may have 63 (kubernetes#64023). What is cut off shows as a hash, for two long names may begin alike.
*/}}
{{- define "usb.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}
{{- $name = printf "%s-%s" $name .Chart.Name -}}
{{- end -}}
{{- if gt (len $name) 38 -}}
{{- $name = printf "%s-%s" ($name | trunc 29 | trimSuffix "-") ($name | sha256sum | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "usb.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "usb.labels" -}}
{{ include "usb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The secret and key of the password; empty: Redis asks for none. */}}
{{- define "usb.redisSecret" -}}
{{- if .Values.redis.enabled -}}
{{- if .Values.redis.auth.enabled -}}
{{- .Values.redis.auth.existingSecret | default (printf "%s-redis" (include "usb.fullname" .)) -}}
{{- end -}}
{{- else -}}
{{- .Values.redis.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "usb.redisSecretKey" -}}
{{- if not .Values.redis.enabled -}}
{{- .Values.redis.external.existingSecretKey -}}
{{- else if .Values.redis.auth.existingSecret -}}
{{- .Values.redis.auth.existingSecretKey -}}
{{- else -}}
redis-password
{{- end -}}
{{- end -}}

{{/* A value of a variable. A file's numbers are floats, and a large one would be written with an exponent. */}}
{{- define "usb.variable" -}}
{{- if kindIs "string" . -}}
{{- . | quote -}}
{{- else -}}
{{- . | toJson | quote -}}
{{- end -}}
{{- end -}}

{{/* The names of the service, and what else HTTP is asked by. */}}
{{- define "usb.hosts" -}}
{{- $name := include "usb.fullname" . -}}
{{- $inNamespace := printf "%s.%s" $name .Release.Namespace -}}
{{- $service := list $name $inNamespace (printf "%s.svc" $inNamespace) (printf "%s.svc.cluster.local" $inNamespace) -}}
{{- concat $service .Values.monitoring.hosts | join "," -}}
{{- end -}}

{{/* The pods' affinity. Two of a Deployment on one node would hear the same devices and want the same journal. */}}
{{- define "usb.affinity" -}}
{{- $affinity := deepCopy .Values.usbDaemon.affinity -}}
{{- if eq .Values.usbDaemon.mode "Deployment" -}}
{{- $labels := merge (dict "app.kubernetes.io/component" "daemon") (include "usb.selector" . | fromYaml) -}}
{{- $apart := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $labels) -}}
{{- $anti := $affinity.podAntiAffinity | default dict -}}
{{- $required := append ($anti.requiredDuringSchedulingIgnoredDuringExecution | default list) $apart -}}
{{- $_ := set $anti "requiredDuringSchedulingIgnoredDuringExecution" $required -}}
{{- $_ := set $affinity "podAntiAffinity" $anti -}}
{{- end -}}
{{- with $affinity -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* A pod of the daemon. */}}
{{- define "usb.pod" -}}
{{- $daemon := .Values.usbDaemon -}}
{{- $secret := include "usb.redisSecret" . -}}
metadata:
  labels:
    {{- include "usb.labels" . | nindent 4 }}
    app.kubernetes.io/component: daemon
  {{- with $daemon.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # Services would make variables like REDIS_PORT=tcp://…, which is no port.
  enableServiceLinks: false
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 15
  {{- with $daemon.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  {{- if eq $daemon.state.type "hostPath" }}
  initContainers:
    # A directory that kubelet makes on the node is root's, and so is what a privileged daemon left in it.
    - name: own-state
      image: "{{ $daemon.state.initImage.repository }}:{{ $daemon.state.initImage.tag }}"
      command: ["chown", "-hR", "65532:65532", "/state"]
      securityContext:
        runAsNonRoot: false
        runAsUser: 0
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: ["ALL"]
          # It sees what is in the directories of user 65532 by its group, which is the pod's.
          add: ["CHOWN"]
      resources:
        requests: {memory: 8Mi, cpu: 10m}
        limits: {memory: 32Mi, cpu: 100m}
      volumeMounts:
        - name: state
          mountPath: /state
  {{- end }}
  containers:
    - name: usb-daemon
      image: "{{ $daemon.image.repository }}:{{ $daemon.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ $daemon.image.pullPolicy }}
      args: ["run"]
      securityContext:
        {{- if $daemon.securityContext.privileged }}
        privileged: true
        runAsNonRoot: false
        runAsUser: 0
        {{- else }}
        privileged: false
        allowPrivilegeEscalation: false
        capabilities:
          drop: ["ALL"]
        {{- end }}
        readOnlyRootFilesystem: true
      env:
        # The pod's name would be another after each restart.
        - name: AUTOWEAVE_USB__HOST
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        - name: AUTOWEAVE_USB__LOG__LEVEL
          value: {{ $daemon.log.level | quote }}
        - name: AUTOWEAVE_USB__LOG__FORMAT
          value: {{ $daemon.log.format | quote }}
        - name: AUTOWEAVE_USB__MONITORING__ENABLED
          value: {{ .Values.monitoring.enabled | quote }}
        {{- if .Values.monitoring.enabled }}
        # Probes and Prometheus come from outside of the pod.
        - name: AUTOWEAVE_USB__MONITORING__BIND
          value: 0.0.0.0
        - name: AUTOWEAVE_USB__MONITORING__HEALTHCHECK_PORT
          value: {{ .Values.monitoring.port | quote }}
        - name: AUTOWEAVE_USB__MONITORING__HOSTS
          value: {{ include "usb.hosts" . | quote }}
        {{- end }}
        {{- if .Values.redis.enabled }}
        - name: REDIS_HOST
          value: {{ include "usb.fullname" . }}-redis
        {{- else if .Values.redis.external.host }}
        {{- $external := .Values.redis.external }}
        - name: REDIS_HOST
          value: {{ $external.host | quote }}
        - name: REDIS_PORT
          value: {{ $external.port | quote }}
        - name: REDIS_DB
          value: {{ include "usb.variable" $external.db }}
        - name: AUTOWEAVE_USB__REDIS__TLS
          value: {{ $external.tls | quote }}
        {{- with $external.username }}
        - name: AUTOWEAVE_USB__REDIS__USERNAME
          value: {{ . | quote }}
        {{- end }}
        {{- end }}
        {{- if $secret }}
        # A file, not a variable: less is told by it.
        - name: AUTOWEAVE_USB__REDIS__PASSWORD_FILE
          value: /run/secrets/redis/password
        {{- end }}
        {{- range $name, $value := $daemon.env }}
        - name: {{ $name }}
          value: {{ include "usb.variable" $value }}
        {{- end }}
        {{- with $daemon.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if .Values.monitoring.enabled }}
      ports:
        - name: http
          containerPort: {{ .Values.monitoring.port }}
      startupProbe:
        httpGet:
          path: /health
          port: http
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet:
          path: /health
          port: http
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /ready
          port: http
        periodSeconds: 5
        timeoutSeconds: 5
      {{- end }}
      resources:
        {{- toYaml $daemon.resources | nindent 8 }}
      volumeMounts:
        - name: state
          mountPath: /var/lib/autoweave-usb
        {{- if $secret }}
        - name: redis-password
          mountPath: /run/secrets/redis
          readOnly: true
        {{- end }}
  volumes:
    - name: state
      {{- if eq $daemon.state.type "hostPath" }}
      hostPath:
        path: {{ $daemon.state.hostPath }}
        type: DirectoryOrCreate
      {{- else }}
      emptyDir:
        sizeLimit: {{ $daemon.state.sizeLimit }}
      {{- end }}
    {{- if $secret }}
    - name: redis-password
      secret:
        secretName: {{ $secret }}
        items:
          - key: {{ include "usb.redisSecretKey" . }}
            path: password
    {{- end }}
  {{- with $daemon.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $daemon.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "usb.affinity" . }}
  affinity:
    {{- . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Not empty where a ServiceMonitor is to be made. */}}
{{- define "usb.serviceMonitor" -}}
{{- $enabled := toString .Values.monitoring.serviceMonitor.enabled -}}
{{- $isThere := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}
{{- if and .Values.monitoring.enabled (or (eq $enabled "true") (and (eq $enabled "auto") $isThere)) }}true{{ end -}}
{{- end }}
